/* Index. */

/* An idle period: from position `at` until before position `next` the image's last use is `end`.
 * Only periods in which the image may be without a container are listed. */
typedef struct {
    double end;
    int32_t image, at, next;
} period_t;

static int by_end(const void *a, const void *b) {
    const period_t *x = a, *y = b;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    if (x->image != y->image) return x->image < y->image ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* Sort periods by end. They come in the order of their beginnings, so mostly each has only a few to pass;
 * where it is more, they are put into buckets of time first. */
static int sort_periods(int64_t count, double *ends, int32_t *images, int32_t *ats, int32_t *nexts) {
    int64_t patience = MOVES_EACH * count;
    for (int64_t k = 1; k < count && patience >= 0; k++) {
        if (ends[k - 1] < ends[k]) continue;
        period_t moved = {ends[k], images[k], ats[k], nexts[k]};
        int64_t to = k;
        for (; to > 0; to--) {
            period_t before = {ends[to - 1], images[to - 1], ats[to - 1], 0};
            if (by_end(&moved, &before) >= 0 || patience-- < 0) break;
            ends[to] = ends[to - 1], images[to] = images[to - 1], ats[to] = ats[to - 1], nexts[to] = nexts[to - 1];
        }
        ends[to] = moved.end, images[to] = moved.image, ats[to] = moved.at, nexts[to] = moved.next;
    }
    if (patience >= 0) return OK;
    double low = ends[0], high = low;
    for (int64_t k = 1; k < count; k++) {
        if (ends[k] < low) low = ends[k];
        if (ends[k] > high) high = ends[k];
    }
    int64_t buckets = count / 2 + 1;
    int32_t *start = calloc((size_t)buckets + 2, sizeof *start);
    period_t *sorted = malloc(sizeof *sorted * (size_t)count);
    if (!start || !sorted) return free(start), free(sorted), NO_MEMORY;
    double scale = high > low ? (double)(buckets - 1) / (high - low) : 0.0;
    for (int64_t k = 0; k < count; k++) start[(int64_t)((ends[k] - low) * scale) + 2]++;
    for (int64_t b = 0; b < buckets; b++) start[b + 2] += start[b + 1];
    for (int64_t k = 0; k < count; k++)
        sorted[start[(int64_t)((ends[k] - low) * scale) + 1]++] = (period_t){ends[k], images[k], ats[k], nexts[k]};
    int64_t first = 0;
    for (int64_t b = 0; b < buckets; b++) {
        int64_t last = start[b + 1];
        if (last - first > 24) {
            qsort(sorted + first, (size_t)(last - first), sizeof *sorted, by_end);
        } else {
            for (int64_t k = first + 1; k < last; k++) {
                period_t moved = sorted[k];
                int64_t at = k;
                for (; at > first && by_end(&moved, &sorted[at - 1]) < 0; at--) sorted[at] = sorted[at - 1];
                sorted[at] = moved;
            }
        }
        first = last;
    }
    for (int64_t k = 0; k < count; k++)
        ends[k] = sorted[k].end, images[k] = sorted[k].image, ats[k] = sorted[k].at, nexts[k] = sorted[k].next;
    free(start), free(sorted);
    return OK;
}

/* Uses as the log has them, in any order: times in UTC nanoseconds, `until` OPEN where there is no end yet. */
typedef struct {
    int64_t count;
    const int64_t *time, *until;
    const int32_t *image;
    const uint8_t *kind;
} uses_t;
#define OPEN INT64_MAX

/* Per image when it was used first, and per span (2^SPAN_BITS ns, from `low` on) how many containers began,
 * and all their beginnings in one number, by exclusive or. */
void kernel_survey(const uses_t *uses, int64_t low, int64_t *earliest, int64_t *count, int64_t *beginnings) {
    for (int64_t k = 0; k < uses->count; k++) {
        int64_t time = uses->time[k];
        if (time < earliest[uses->image[k]]) earliest[uses->image[k]] = time;
        if (uses->kind[k] != CONTAINER) continue;
        count[(time >> SPAN_BITS) - low]++;
        beginnings[(time >> SPAN_BITS) - low] ^= time;
    }
}

typedef struct {
    int64_t time;
    uint32_t rank; /* kind, then image */
    int32_t number;
} entry_t;

static int sooner(const entry_t *x, const entry_t *y) {
    return x->time != y->time ? x->time < y->time : x->rank < y->rank;
}

static int by_moment(const void *a, const void *b) { return sooner(b, a) - sooner(a, b); }

static int64_t bucket_of(int64_t time, int64_t low, double scale) { return (int64_t)((double)(time - low) * scale); }

/* Put those uses in order that begin within [low, high): by time, kind, image, and end.
 *
 * uses: two blocks of them; origin: where the trace begins; number: per image of the log its number in the trace.
 * Written: seconds after the origin, begun at 0 at the earliest (what began before that was found), and so on.
 */
int kernel_order(const uses_t *uses, int64_t low, int64_t high, int64_t origin, const int64_t *number, double *times,
                 int32_t *images, double *untils, uint8_t *kinds) {
    int64_t count = 0, first = INT64_MAX, last = INT64_MIN;
    for (int block = 0; block < 2; block++)
        for (int64_t k = 0; k < uses[block].count; k++) {
            int64_t time = uses[block].time[k];
            if (time < low || time >= high) continue;
            count++;
            if (time < first) first = time;
            if (time > last) last = time;
        }
    if (!count) return OK;
    int64_t buckets = count / 2 + 1;
    int32_t *start = calloc((size_t)buckets + 2, sizeof *start);
    entry_t *sorted = malloc((size_t)count * sizeof *sorted);
    if (!start || !sorted) return free(start), free(sorted), NO_MEMORY;
    double scale = last > first ? (double)(buckets - 1) / (double)(last - first) : 0.0;
    for (int block = 0; block < 2; block++)
        for (int64_t k = 0; k < uses[block].count; k++) {
            int64_t time = uses[block].time[k];
            if (time >= low && time < high) start[bucket_of(time, first, scale) + 2]++;
        }
    for (int64_t b = 0; b < buckets; b++) start[b + 2] += start[b + 1];
    for (int block = 0; block < 2; block++)
        for (int64_t k = 0; k < uses[block].count; k++) {
            int64_t time = uses[block].time[k];
            if (time < low || time >= high) continue;
            uint32_t kind = time < origin ? FOUND : uses[block].kind[k];
            int64_t at = k + block * uses[0].count;
            sorted[start[bucket_of(time, first, scale) + 1]++] =
                (entry_t){time, kind << IMAGE_BITS | (uint32_t)number[uses[block].image[k]], (int32_t)at};
        }
    int64_t from = 0;
    for (int64_t b = 0; b < buckets; b++) {
        int64_t to = start[b + 1];
        if (to - from > 24) {
            qsort(sorted + from, (size_t)(to - from), sizeof *sorted, by_moment);
        } else {
            for (int64_t k = from + 1; k < to; k++) {
                entry_t moved = sorted[k];
                int64_t at = k;
                for (; at > from && sooner(&moved, &sorted[at - 1]); at--) sorted[at] = sorted[at - 1];
                sorted[at] = moved;
            }
        }
        from = to;
    }
    for (int64_t k = 0; k < count; k++) {
        int64_t at = sorted[k].number;
        const uses_t *block = at < uses[0].count ? uses : (at -= uses[0].count, uses + 1);
        double until = block->until[at] == OPEN ? INFINITY : (double)(block->until[at] - origin) / 1e9;
        times[k] = sorted[k].time > origin ? (double)(sorted[k].time - origin) / 1e9 : 0.0;
        images[k] = (int32_t)(sorted[k].rank & ((1u << IMAGE_BITS) - 1));
        kinds[k] = (uint8_t)(sorted[k].rank >> IMAGE_BITS);
        int64_t to = k;
        for (; to > 0 && sorted[to - 1].time == sorted[k].time && sorted[to - 1].rank == sorted[k].rank; to--) {
            if (untils[to - 1] <= until) break;
            untils[to] = untils[to - 1];
        }
        untils[to] = until;
    }
    free(start), free(sorted);
    return OK;
}

/* Per use the next use of the same image (or NOWHERE). */
int kernel_following(int32_t images, int32_t uses, const int32_t *image, int32_t *following) {
    int32_t *next = malloc(sizeof *next * ((size_t)images + 1));
    if (!next) return NO_MEMORY;
    for (int32_t i = 0; i < images; i++) next[i] = NOWHERE;
    for (int32_t p = uses - 1; p >= 0; p--) following[p] = next[image[p]], next[image[p]] = p;
    free(next);
    return OK;
}

/* Look through a trace once; how many of its uses need their image to be there.
 *
 * bringing: written: per image its first use that brings it in (or NOWHERE).
 * vain: written: whether any later use may find its image gone and not bring it in.
 */
int64_t kernel_index(int32_t images, int32_t uses, const int32_t *image, const uint8_t *kind, const uint8_t *local,
                     int32_t *bringing, int32_t *vain) {
    int64_t demands = 0;
    int any = 0;
    for (int32_t i = 0; i < images; i++) bringing[i] = NOWHERE;
    for (int32_t p = 0; p < uses; p++) {
        int32_t i = image[p];
        uint8_t what = kind[p];
        demands += what >= CONTAINER && what <= JOB;
        if (bringing[i] != NOWHERE)
            any |= (what >= TAG) | (what == FOUND) | local[i];
        else if (what < TAG)
            bringing[i] = p;
    }
    *vain = any;
    return demands;
}

/* The latest end of an image's uses so far, and its latest period: the number of one that is staged, or below NO_PERIOD
 * that of one that is listed. */
typedef struct {
    double end;
    int32_t period;
} idle_t;
#define NO_PERIOD (-1)

/* Most periods turn out to be too short soon; only those that do not are listed. */
typedef struct {
    double end;
    int32_t at, next;
} staged_t;

typedef struct {
    const int32_t *image;
    idle_t *idle;
    double *ends;
    int32_t *images, *ats, *nexts;
    int32_t count;
} listed_t;

static inline void list_period(listed_t *listed, staged_t period) {
    int32_t i = listed->image[period.at], k = listed->count;
    listed->ends[k] = period.end, listed->images[k] = i, listed->ats[k] = period.at, listed->nexts[k] = period.next;
    listed->count += (period.next >= 0) & (period.end < INFINITY);
    if (period.next == NOWHERE) listed->idle[i].period = period.end < INFINITY ? NO_PERIOD - 1 - k : NO_PERIOD;
}

/* List the idle periods in which decisions may find an image old enough, by their ends; how many, or -1: no memory.
 *
 * Decisions are made at ticks of the interval, or at any time if that is 0. room: how many periods are staged, a power
 * of two.
 */
int64_t kernel_periods(int32_t images, int32_t uses, const double *time, const int32_t *image, const double *until,
                      double min_age, double interval, int32_t room, double *ends, int32_t *period_images, int32_t *ats,
                      int32_t *nexts) {
    idle_t *idle = malloc(sizeof *idle * ((size_t)images + 1));
    staged_t *staged = malloc(sizeof *staged * (size_t)room);
    if (!idle || !staged) return free(idle), free(staged), -1;
    for (int32_t i = 0; i < images; i++) idle[i] = (idle_t){-INFINITY, NO_PERIOD};
    listed_t listed = {image, idle, ends, period_images, ats, nexts, 0};
    double per_second = interval > 0 ? 1.0 / interval : 0.0;
    int32_t count = 0, gone = 0;
    for (int32_t p = 0; p < uses; p++) {
        idle_t *mine = &idle[image[p]];
        double end = mine->end, start = time[p], stop = until[p], old_enough = end + min_age - 0.001;
        if (stop <= end && start < end) continue; /* within an earlier use */
        /* Leave the former period out if the image was never without a container in it, or not for long. The latest
         * tick before this use is that, or the one after it: rather one too many is looked at. */
        double tick = (double)(int64_t)((start + 0.001) * per_second + 1e-6) * interval;
        int out = (start < end) | (start < old_enough) | ((interval > 0) & (tick < old_enough));
        if (mine->period >= 0)
            staged[mine->period & (room - 1)].next = out ? -1 : p;
        else if (mine->period < NO_PERIOD)
            nexts[NO_PERIOD - 1 - mine->period] = out ? -1 : p, gone += out;
        if (count >= room) list_period(&listed, staged[count & (room - 1)]);
        end = stop > end ? stop : end;
        staged[count & (room - 1)] = (staged_t){end, p, NOWHERE};
        *mine = (idle_t){end, count++};
    }
    for (int32_t k = count < room ? 0 : count - room; k < count; k++) list_period(&listed, staged[k & (room - 1)]);
    free(idle), free(staged);
    int32_t kept = gone ? 0 : listed.count;
    for (int32_t k = 0; k < listed.count && gone; k++) {
        ends[kept] = ends[k], period_images[kept] = period_images[k], ats[kept] = ats[k], nexts[kept] = nexts[k];
        kept += nexts[k] >= 0;
    }
    return sort_periods(kept, ends, period_images, ats, nexts) == OK ? kept : -1;
}

static inline int32_t part_of(double time, double scale, int32_t count) {
    return time <= 0.0 ? 0 : time * scale < (double)count ? (int32_t)(time * scale) : count - 1;
}

/* How many uses there are before each of `count` equal parts of the time, and in all; `scale` is parts per second. */
void kernel_clock(int32_t uses, const double *time, double scale, int32_t count, int32_t *before) {
    before[0] = 0;
    for (int32_t part = 1; part < count; part++) {
        int64_t low = before[part - 1], high = low;
        for (int64_t step = 1; high < uses && part_of(time[high], scale, count) < part; step *= 2)
            low = high + 1, high = low + step;
        if (high > uses) high = uses;
        while (low < high) {
            int64_t middle = low + (high - low) / 2;
            if (part_of(time[middle], scale, count) < part)
                low = middle + 1;
            else
                high = middle;
        }
        before[part] = (int32_t)low;
    }
    before[count] = uses;
}
