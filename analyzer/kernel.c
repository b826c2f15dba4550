/* The replay of `analyzer.replay`, compiled: same semantics, same figures, to the last bit.
 *
 * A use that finds its image there changes nothing that a policy decides on, except when the image
 * was last used; and that is the same under every policy. So an index, made once per trace, lists
 * the *idle spells* of all images in the order of last use, and a replay touches only what changes
 * the host: uses of images that are not there, disk states, ticks with too little space, removals.
 *
 * Floating point follows the reference operation by operation; compile without contraction.
 */
#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define KIND_BITS 3
#define IMAGE_BITS (32 - KIND_BITS)
#define MONTH_BITS 51
#define MOVES_EACH 8
enum { FOUND, ARRIVED, CONTAINER, PULL, JOB, TAG }; /* analyzer.trace.Use */
enum { THRESHOLD = 0, TARGET = 2, EMERGENCY = 4, LEVELS = 6 };
enum { OK = 0, NO_MEMORY = 1, CALLBACK = 2 };
#define NOWHERE INT32_MAX
#define BIT_LEVELS 6
#define SORTED_APART 8 /* so many by insertion, then merged */

#ifndef SOURCE_CRC
#define SOURCE_CRC 0
#endif

/* Tells which source this was compiled from. */
uint32_t kernel_source(void) { return (uint32_t)SOURCE_CRC; }

/* ---------------------------------------------------------------- index */

/* An idle spell: from position `at` until before position `next` the image's last use is `end`.
 * Only spells in which the image may be without a container are listed. */
typedef struct {
    double end;
    int32_t image, at, next;
} spell_t;

static int by_end(const void *a, const void *b) {
    const spell_t *x = a, *y = b;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    if (x->image != y->image) return x->image < y->image ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* Sort spells by end. They come in the order of their beginnings, so mostly each has only a few to pass;
 * where it is more, they are put into buckets of time first. */
static int sort_spells(int64_t count, double *ends, int32_t *images, int32_t *ats, int32_t *nexts) {
    int64_t patience = MOVES_EACH * count;
    for (int64_t k = 1; k < count && patience >= 0; k++) {
        if (ends[k - 1] < ends[k]) continue;
        spell_t moved = {ends[k], images[k], ats[k], nexts[k]};
        int64_t to = k;
        for (; to > 0; to--) {
            spell_t before = {ends[to - 1], images[to - 1], ats[to - 1], 0};
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
    spell_t *sorted = malloc(sizeof *sorted * (size_t)count);
    if (!start || !sorted) return free(start), free(sorted), NO_MEMORY;
    double scale = high > low ? (double)(buckets - 1) / (high - low) : 0.0;
    for (int64_t k = 0; k < count; k++) start[(int64_t)((ends[k] - low) * scale) + 2]++;
    for (int64_t b = 0; b < buckets; b++) start[b + 2] += start[b + 1];
    for (int64_t k = 0; k < count; k++)
        sorted[start[(int64_t)((ends[k] - low) * scale) + 1]++] = (spell_t){ends[k], images[k], ats[k], nexts[k]};
    int64_t first = 0;
    for (int64_t b = 0; b < buckets; b++) {
        int64_t last = start[b + 1];
        if (last - first > 24) {
            qsort(sorted + first, (size_t)(last - first), sizeof *sorted, by_end);
        } else {
            for (int64_t k = first + 1; k < last; k++) {
                spell_t moved = sorted[k];
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

/* Per image when it was used first, and per month (2^MONTH_BITS ns, from `low` on) how many containers began,
 * and all their beginnings in one number, by exclusive or. */
void kernel_survey(const uses_t *uses, int64_t low, int64_t *earliest, int64_t *count, int64_t *beginnings) {
    for (int64_t k = 0; k < uses->count; k++) {
        int64_t time = uses->time[k];
        if (time < earliest[uses->image[k]]) earliest[uses->image[k]] = time;
        if (uses->kind[k] != CONTAINER) continue;
        count[(time >> MONTH_BITS) - low]++;
        beginnings[(time >> MONTH_BITS) - low] ^= time;
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
            any |= (what == TAG) | (what == FOUND) | local[i];
        else if (what != TAG)
            bringing[i] = p;
    }
    *vain = any;
    return demands;
}

/* The latest end of an image's uses so far, and its latest spell: the number of one that is staged, or below NO_SPELL
 * that of one that is listed. */
typedef struct {
    double end;
    int32_t spell;
} idle_t;
#define NO_SPELL (-1)

/* Most spells turn out to be too short soon; only those that do not are listed. */
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

static inline void list_spell(listed_t *listed, staged_t spell) {
    int32_t i = listed->image[spell.at], k = listed->count;
    listed->ends[k] = spell.end, listed->images[k] = i, listed->ats[k] = spell.at, listed->nexts[k] = spell.next;
    listed->count += (spell.next >= 0) & (spell.end < INFINITY);
    if (spell.next == NOWHERE) listed->idle[i].spell = spell.end < INFINITY ? NO_SPELL - 1 - k : NO_SPELL;
}

/* List the idle spells in which decisions may find an image old enough, by their ends; how many, or -1: no memory.
 *
 * Decisions are made at ticks of the interval, or at any time if that is 0. room: how many spells are staged, a power
 * of two.
 */
int64_t kernel_spells(int32_t images, int32_t uses, const double *time, const int32_t *image, const double *until,
                      double min_age, double interval, int32_t room, double *ends, int32_t *spell_images, int32_t *ats,
                      int32_t *nexts) {
    idle_t *idle = malloc(sizeof *idle * ((size_t)images + 1));
    staged_t *staged = malloc(sizeof *staged * (size_t)room);
    if (!idle || !staged) return free(idle), free(staged), -1;
    for (int32_t i = 0; i < images; i++) idle[i] = (idle_t){-INFINITY, NO_SPELL};
    listed_t listed = {image, idle, ends, spell_images, ats, nexts, 0};
    double per_second = interval > 0 ? 1.0 / interval : 0.0;
    int32_t count = 0, gone = 0;
    for (int32_t p = 0; p < uses; p++) {
        idle_t *mine = &idle[image[p]];
        double end = mine->end, start = time[p], stop = until[p], old_enough = end + min_age - 0.001;
        if (stop <= end && start < end) continue; /* within an earlier use */
        /* Leave the former spell out if the image was never without a container in it, or not for long. The latest
         * tick before this use is that, or the one after it: rather one too many is looked at. */
        double tick = (double)(int64_t)((start + 0.001) * per_second + 1e-6) * interval;
        int out = (start < end) | (start < old_enough) | ((interval > 0) & (tick < old_enough));
        if (mine->spell >= 0)
            staged[mine->spell & (room - 1)].next = out ? -1 : p;
        else if (mine->spell < NO_SPELL)
            nexts[NO_SPELL - 1 - mine->spell] = out ? -1 : p, gone += out;
        if (count >= room) list_spell(&listed, staged[count & (room - 1)]);
        end = stop > end ? stop : end;
        staged[count & (room - 1)] = (staged_t){end, p, NOWHERE};
        *mine = (idle_t){end, count++};
    }
    for (int32_t k = count < room ? 0 : count - room; k < count; k++) list_spell(&listed, staged[k & (room - 1)]);
    free(idle), free(staged);
    int32_t kept = gone ? 0 : listed.count;
    for (int32_t k = 0; k < listed.count && gone; k++) {
        ends[kept] = ends[k], spell_images[kept] = spell_images[k], ats[kept] = ats[k], nexts[kept] = nexts[k];
        kept += nexts[k] >= 0;
    }
    return sort_spells(kept, ends, spell_images, ats, nexts) == OK ? kept : -1;
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

/* ---------------------------------------------------------------- what a host learned */

/* As in pruner.learning. */
enum { LOWEST_BIN = 11, AGES = 14, BUCKETS = 6, LOWEST_HABIT = 12, HABITS = 10, STAGES = 4, REMEMBERED_GAPS = 16 };
#define SESSION 3600.0
#define GAP_WEIGHT 0.25
#define DISCOUNT (2 * 86400.0)
#define DAY_MS INT64_C(86400000)
static const double PHASES[STAGES - 1] = {0.0, 86400.0, 7 * 86400.0};
enum { BY_HABIT, BY_COUNT }; /* situations by age, habit and stage; or by age, use count and whether superseded */

static inline int bin_of(double value, int lowest, int count) {
    int exponent;
    frexp(value, &exponent);
    exponent -= lowest;
    return exponent < 0 ? 0 : exponent < count ? exponent : count - 1;
}

static inline int habit_of(double gap) { return gap > 0.0 ? bin_of(gap, LOWEST_HABIT, HABITS - 1) + 1 : 0; }

static inline int stage_of(double superseded_for) {
    int stage = 0;
    while (stage < STAGES - 1 && superseded_for >= PHASES[stage]) stage++;
    return stage;
}

/* How one image was used so far. */
typedef struct {
    double time, end, gaps[REMEMBERED_GAPS];
    int32_t uses, returns;
    int habit, known;
} past_t;

/* What changes at a midnight in a situation; sums of whole numbers do not depend on their order. */
typedef struct {
    int64_t exposure; /* milliseconds */
    int32_t returns, situation;
} change_t;

/* Returns and exposure up to each midnight: as they stood at some of them, and what changed at each. */
typedef struct {
    int32_t days, situations;
    int64_t *first; /* what changed at midnight d: change[first[d]] to change[first[d + 1] - 1] */
    change_t *change;
    int64_t *known; /* at each midnight that is a multiple of KNOWN_DAYS: returns, then exposure */
} learning_t;
#define KNOWN_DAYS 64

/* What is still to change at a midnight ahead; `full` is how many more pieces last all day from then on. */
typedef struct {
    int64_t exposure;
    int32_t full, returns;
} coming_t;

/* The same, on a midnight too far ahead to have a table. */
typedef struct {
    coming_t coming;
    int32_t situation, next;
} remote_t;

/* A pass over all uses in order of time; all pieces that it finds lie ahead of it. */
typedef struct {
    learning_t *made;
    int64_t offset; /* milliseconds of the origin after midnight */
    int32_t day;    /* midnights before this one are done with */
    int view;
    coming_t *ahead; /* of the next DAYS_AHEAD midnights, in a ring */
    int32_t *head;   /* per midnight the first of what is remote */
    remote_t *remote;
    int64_t remotes, remote_room, change_room;
    int64_t *whole, *now; /* pieces that last all day; returns and exposure so far */
    int status;
} pass_t;
#define DAYS_AHEAD 64

static int grow(void **array, int64_t room, size_t size) {
    void *larger = realloc(*array, (size_t)room * size);
    if (!larger) return NO_MEMORY;
    *array = larger;
    return OK;
}

static void add_coming(pass_t *pass, int64_t day, int situation, coming_t more) {
    if (day >= pass->made->days) return;
    coming_t *at;
    if (day < pass->day + DAYS_AHEAD) {
        at = &pass->ahead[day % DAYS_AHEAD * pass->made->situations + situation];
        at->exposure += more.exposure, at->full += more.full, at->returns += more.returns;
        return;
    }
    if (pass->remotes == pass->remote_room) {
        int64_t room = pass->remote_room ? 2 * pass->remote_room : 1024;
        if (room > INT32_MAX || grow((void **)&pass->remote, room, sizeof *pass->remote)) {
            pass->status = NO_MEMORY;
            return;
        }
        pass->remote_room = room;
    }
    pass->remote[pass->remotes] = (remote_t){more, situation, pass->head[day]};
    pass->head[day] = (int32_t)pass->remotes++;
}

static void add_piece(pass_t *pass, double from, double to, int situation, int returned) {
    int64_t a = llrint(from * 1000.0), b = llrint(to * 1000.0), offset = pass->offset;
    int64_t began = (a + offset) / DAY_MS + 1, ended = (b + offset + DAY_MS - 1) / DAY_MS;
    if (b <= a) {
        if (returned) add_coming(pass, ended, situation, (coming_t){0, 0, 1});
    } else if (ended <= began) {
        add_coming(pass, began, situation, (coming_t){b - a, 0, returned});
    } else {
        add_coming(pass, began, situation, (coming_t){began * DAY_MS - offset - a, 0, 0});
        if (began + 1 < ended) add_coming(pass, began + 1, situation, (coming_t){0, 1, 0});
        add_coming(pass, ended, situation, (coming_t){b + offset - (ended - 1) * DAY_MS, began + 1 < ended ? -1 : 0, returned});
    }
}

/* Write down what changed at the midnights up to and without `day`. */
static void close_days(pass_t *pass, int64_t day) {
    learning_t *made = pass->made;
    int32_t width = made->situations;
    for (; pass->day < day && pass->day < made->days && pass->status == OK; pass->day++) {
        coming_t *row = &pass->ahead[(int64_t)(pass->day % DAYS_AHEAD) * width];
        int64_t count = made->first[pass->day];
        if (count + width > pass->change_room) {
            pass->change_room = 2 * (count + width);
            if ((pass->status = grow((void **)&made->change, pass->change_room, sizeof *made->change)) != OK) return;
        }
        for (int32_t c = 0; c < width; c++) {
            int64_t exposure = row[c].exposure + (pass->whole[c] += row[c].full) * DAY_MS;
            if (!exposure && !row[c].returns) continue;
            made->change[count++] = (change_t){exposure, row[c].returns, c};
            pass->now[c] += row[c].returns, pass->now[width + c] += exposure;
        }
        memset(row, 0, (size_t)width * sizeof *row);
        made->first[pass->day + 1] = count;
        if (pass->day % KNOWN_DAYS == 0)
            memcpy(made->known + (int64_t)(pass->day / KNOWN_DAYS) * 2 * width, pass->now, 2 * (size_t)width * sizeof *pass->now);
        /* The row is the one of a midnight that comes into view now. */
        if (pass->day + DAYS_AHEAD >= made->days) continue;
        for (int32_t k = pass->head[pass->day + DAYS_AHEAD]; k >= 0; k = pass->remote[k].next) {
            coming_t *at = &row[pass->remote[k].situation], more = pass->remote[k].coming;
            at->exposure += more.exposure, at->full += more.full, at->returns += more.returns;
        }
    }
}

/* The idle time from now on until `stop`, cut where the situation changes. */
static void add_idle(pass_t *pass, const past_t *past, double stop, int returned, double superseded) {
    int often = 0;
    for (int32_t uses = pass->view == BY_COUNT ? past->uses : 0; uses; uses >>= 1) often++;
    if (often >= BUCKETS) often = BUCKETS - 1;
    for (int age = 0; age < AGES; age++) {
        double low = past->end + (age ? (double)(1 << (age + LOWEST_BIN - 1)) : 0.0);
        if (low >= stop) return;
        double high = age < AGES - 1 ? past->end + (double)(1 << (age + LOWEST_BIN)) : stop;
        if (low < past->time) low = past->time;
        if (high > stop) high = stop;
        if (high <= low) continue;
        for (int stage = 0; stage < STAGES; stage++) {
            double from = low, to = high;
            if (stage && superseded + PHASES[stage - 1] > from) from = superseded + PHASES[stage - 1];
            if (from >= high) break;
            if (stage < STAGES - 1 && superseded + PHASES[stage] < to) to = superseded + PHASES[stage];
            if (!(to > from)) continue;
            int situation = pass->view == BY_HABIT ? (age * HABITS + past->habit) * STAGES + stage
                                                   : (age * BUCKETS + often) * 2 + (stage > 0);
            add_piece(pass, from, to, situation, returned && to == stop);
        }
    }
}

static void note_gap(past_t *past, double idle) {
    past->gaps[past->returns++ % REMEMBERED_GAPS] = idle;
    int32_t oldest = past->returns > REMEMBERED_GAPS ? past->returns - REMEMBERED_GAPS : 0;
    double average = past->gaps[oldest % REMEMBERED_GAPS];
    for (int32_t k = oldest + 1; k < past->returns; k++)
        average += GAP_WEIGHT * (past->gaps[k % REMEMBERED_GAPS] - average);
    past->habit = habit_of(average);
}

/* Free what was learned. */
void kernel_unlearn(learning_t *made) {
    if (made) free(made->first), free(made->change), free(made->known);
    free(made);
}

static int make_pass(pass_t *pass, int32_t days, int64_t offset, int view) {
    int32_t width = view == BY_HABIT ? AGES * HABITS * STAGES : AGES * BUCKETS * 2;
    learning_t *made = calloc(1, sizeof *made);
    *pass = (pass_t){.made = made, .offset = offset, .view = view};
    if (!made) return NO_MEMORY;
    made->days = days, made->situations = width;
    made->first = calloc((size_t)days + 1, sizeof *made->first);
    made->known = malloc(((size_t)days / KNOWN_DAYS + 1) * 2 * (size_t)width * sizeof *made->known);
    pass->ahead = calloc((size_t)(DAYS_AHEAD * width), sizeof *pass->ahead);
    pass->head = malloc(((size_t)days + 1) * sizeof *pass->head);
    pass->whole = calloc((size_t)width, sizeof *pass->whole);
    pass->now = calloc(2 * (size_t)width, sizeof *pass->now);
    if (!made->first || !made->known || !pass->ahead || !pass->head || !pass->whole || !pass->now) return NO_MEMORY;
    for (int32_t day = 0; day <= days; day++) pass->head[day] = -1;
    return OK;
}

/* Learn from a trace up to each of `days` midnights, the first at or before the origin; NULL: failed.
 *
 * superseded: per image since when it has been; view: BY_HABIT or BY_COUNT.
 * following: per use the next use of the same image, or NOWHERE.
 * habit: written: per use the image's habit from then on.
 */
learning_t *kernel_learn(int32_t images, int32_t uses, const double *time, const int32_t *image, const double *until,
                         const uint8_t *kind, const int32_t *following, const double *superseded, double end,
                         int64_t offset, int32_t days, int view, uint8_t *habit) {
    past_t *pasts = calloc((size_t)images + 1, sizeof *pasts);
    pass_t pass;
    int status = make_pass(&pass, days, offset, view);
    double midnight = -INFINITY; /* the first that is still to come */
    for (int32_t p = 0; p < uses && pasts && status == OK; p++) {
        if (time[p] > midnight) {
            int64_t passed = (llrint(time[p] * 1000.0) + offset + DAY_MS - 1) / DAY_MS;
            close_days(&pass, passed);
            midnight = (double)(passed * DAY_MS - offset - 1) / 1000.0;
            status = pass.status;
        }
        past_t *past = &pasts[image[p]];
        int demands = kind[p] >= CONTAINER && kind[p] <= JOB;
        if (past->known) {
            /* What an inventory found has an end before it was seen: nobody witnessed that idle time. */
            double idle = time[p] - past->end;
            if (demands && past->end >= past->time && idle > SESSION) note_gap(past, idle);
        }
        if (!past->known || until[p] > past->end) past->end = until[p];
        past->known = 1;
        past->time = time[p];
        past->uses += kind[p] == CONTAINER || kind[p] == JOB;
        habit[p] = (uint8_t)past->habit;
        int32_t next = following[p];
        int returned = next < uses && kind[next] >= CONTAINER && kind[next] <= JOB;
        double stop = next < uses && time[next] < end ? time[next] : end;
        if (stop > past->end) add_idle(&pass, past, stop, returned, superseded[image[p]]);
    }
    if (pasts && status == OK) close_days(&pass, days), status = pass.status;
    if (!pasts) status = NO_MEMORY;
    free(pasts), free(pass.ahead), free(pass.head), free(pass.remote), free(pass.whole), free(pass.now);
    if (status != OK) return kernel_unlearn(pass.made), NULL;
    return pass.made;
}

/* Go on from what was known at midnight `from` (-1: nothing) to what was at `day`: returns, then exposure. */
void kernel_day(const learning_t *made, int64_t from, int64_t day, int64_t *now) {
    int64_t width = made->situations, known = day / KNOWN_DAYS * KNOWN_DAYS;
    if (from < known || from > day) {
        memcpy(now, made->known + known / KNOWN_DAYS * 2 * width, 2 * (size_t)width * sizeof *now);
        from = known;
    }
    for (int64_t k = made->first[from + 1]; k < made->first[day + 1]; k++) {
        const change_t *change = &made->change[k];
        now[change->situation] += change->returns;
        now[width + change->situation] += change->exposure;
    }
}

/* ---------------------------------------------------------------- layers */

static uint64_t mixed(uint64_t x) { /* splitmix64 */
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

typedef struct {
    uint64_t one, two; /* sums over the images that hold the layer: the same for the same images */
    int32_t holders, image, number;
} layer_t;

/* Put layers that the same images hold into groups; what one image alone holds is its own.
 *
 * first, layer: the layers of image i are layer[first[i]] to layer[first[i + 1] - 1]; written: has_own,
 * own_bytes, own_inodes per image; group_first, group in the same manner; group_bytes, group_inodes.
 */
int kernel_groups(int32_t images, int32_t layers, const int64_t *first, const int64_t *layer, const int64_t *bytes,
                  const double *inodes, uint8_t *has_own, int64_t *own_bytes, double *own_inodes,
                  int32_t *group_first, int32_t *group, int64_t *group_bytes, double *group_inodes,
                  int32_t *group_of_layer, int32_t *groups) {
    int status = NO_MEMORY;
    int32_t slots = 64;
    while (slots < 2 * layers) slots *= 2;
    layer_t *all = calloc((size_t)layers + 1, sizeof *all);
    int32_t *slot = malloc(sizeof *slot * (size_t)slots), *stamp = malloc(sizeof *stamp * ((size_t)layers + 1));
    if (!all || !slot || !stamp) goto done;
    for (int32_t j = 0; j < layers; j++) all[j].image = -1, stamp[j] = -1;
    for (int32_t i = 0; i < images; i++) {
        uint64_t one = mixed((uint64_t)i), two = mixed(one ^ 0x5851f42d4c957f2du);
        for (int64_t k = first[i]; k < first[i + 1]; k++) {
            layer_t *l = &all[layer[k]];
            if (l->holders && l->image == i) continue; /* twice in one image */
            l->image = i, l->holders++, l->one += one, l->two += two;
        }
    }
    memset(slot, 0xff, sizeof *slot * (size_t)slots);
    int32_t count = 0;
    for (int32_t j = 0; j < layers; j++) {
        all[j].number = group_of_layer[j] = -1;
        if (all[j].holders < 2) continue;
        int32_t at = (int32_t)(all[j].one & (uint64_t)(slots - 1));
        while (slot[at] >= 0 && (all[slot[at]].one != all[j].one || all[slot[at]].two != all[j].two ||
                                 all[slot[at]].holders != all[j].holders))
            at = (at + 1) & (slots - 1);
        if (slot[at] < 0) {
            slot[at] = j;
            all[j].number = count;
            group_bytes[count] = 0, group_inodes[count] = 0.0;
            count++;
        }
        int32_t g = group_of_layer[j] = all[slot[at]].number;
        group_bytes[g] += bytes[j], group_inodes[g] += inodes[j];
    }
    int32_t written = 0;
    for (int32_t i = 0; i < images; i++) {
        has_own[i] = 0, own_bytes[i] = 0, own_inodes[i] = 0.0;
        group_first[i] = written;
        for (int64_t k = first[i]; k < first[i + 1]; k++) {
            int32_t j = (int32_t)layer[k], g = group_of_layer[j];
            if (g >= 0) {
                if (stamp[g] != i) group[written++] = g, stamp[g] = i;
            } else if (all[j].holders == 1) {
                has_own[i] = 1, own_bytes[i] += bytes[j], own_inodes[i] += inodes[j];
                all[j].holders = 0; /* once */
            }
        }
    }
    group_first[images] = written;
    *groups = count;
    status = OK;
done:
    free(all), free(slot), free(stamp);
    return status;
}

/* ---------------------------------------------------------------- what a replay is given */

typedef struct {
    int32_t images, groups, uses, disks, gaps, parts;
    int64_t spells;
    double trace_end, scale;
    const double *time;
    const double *until;
    const int32_t *image;
    const uint8_t *kind;
    const int32_t *bringing;
    const int32_t *following; /* NULL where least recently used goes first and no use is in vain */
    const int32_t *before;
    const double *end;
    const int32_t *spell_image;
    const int32_t *at;
    const int32_t *next;
    /* Layers that the same images hold are one group; what one image alone holds is its own. */
    const uint8_t *has_own;
    const int64_t *own_bytes;
    const double *own_inodes;
    const int32_t *first;
    const int32_t *group;
    const int64_t *group_bytes;
    const double *group_inodes;
    const uint8_t *local;
    const double *disk_time;
    const int64_t *disk_total;
    const int64_t *disk_other;
    const int64_t *inode_total;
    const int64_t *inode_other;
    const int32_t *disk_class;
    const double *gap_begin;
    const double *gap_end;
} trace_t;

/* Orders that look at what the policy did. */
enum { NO_ORDER, PULLED_FIRST, GDSF };

/* A threshold that follows from how far free space fell within an interval; see pruner.headroom. */
typedef int (*levels_t)(int32_t disk_class, double threshold, double *levels);
typedef struct {
    double margin, least, most; /* of the deepest fall; shares of the disk */
    int64_t kept, enough;       /* intervals */
    levels_t levels;
} headroom_t;

/* What others do at each tick: remove all unused images of which something is longer ago. */
enum { BUILT, PULLED, USED };
typedef struct {
    double age, low; /* only while less than this share of the disk is free; negative: whatever is free */
    const double *built;
    const uint8_t *removable;
    int32_t clock;
} age_rule_t;

/* A tool of `analyzer.baselines` whose rules are compiled too; what its amounts are stands with each. */
enum { STONE, DOCUUM, DRONE_GC, KUBELET, ECS, NOMAD, TASKCLUSTER, ARVADOS };
typedef struct {
    int32_t kind, exact; /* exact: book what a removal frees as it is */
    double restarts;     /* seconds between restarts; 0: none */
    double amount[6];
    const double *built;
    const int64_t *sizes;
} tool_t;

/* Fill keys[k] for images present[k]; not 0: failed. */
typedef int (*keys_t)(double now, int32_t count, const int32_t *present, double *keys);

/* What forecasts are made from; see pruner.learning. */
typedef struct {
    const uint8_t *habit; /* per use: the image's from then on */
    const double *superseded, *expected; /* per image since when; per age returns per second where nothing is known */
    const learning_t *learning;          /* by habit */
    int64_t offset;                      /* milliseconds of the origin after midnight */
    double trust[3];
} learned_t;

/* All images as they stand at a moment, first to go first: the same under every policy. */
typedef struct moment {
    struct moment *next; /* of those that are kept */
    size_t slot;
    double now;
    int32_t position;
    int ready; /* once it is another status than PENDING, the rest is there */
    int32_t count; /* images used so far */
    double *last_use;
    int32_t *latest, *ranked; /* ranked: first to go first */
} moment_t;
enum { PENDING = -1 };

/* Moments at which a policy decided, kept for all that are replayed. */
typedef struct {
    const learned_t *learned; /* NULL: ask */
    keys_t ask;
    int64_t room, size; /* bytes that are left; of each */
    size_t slots;
    moment_t **slot, *kept;
} moments_t;
#define MOST_MOMENTS 65536

typedef struct {
    const double *levels; /* per class of disk LEVELS amounts: threshold, target, emergency; bytes, inodes */
    const uint8_t *protected;
    double interval, min_age, allowlist_idle, gap_grace, level;
    int32_t at_events, keep_local, keep_removals, keep_steps;
    int32_t order;        /* one that looks at what the policy did */
    const int64_t *sizes; /* bytes of all layers of each image */
    moments_t *moments; /* keys by another order; neither: least recently used first */
    const headroom_t *headroom; /* not NULL: the levels are those on this disk until enough is known */
    const age_rule_t *rule; /* not NULL: carried out at each tick instead of deciding */
    const tool_t *tool;     /* not NULL: followed instead of deciding */
} policy_t;

typedef struct {
    int64_t compulsory, compulsory_bytes, repulls, repulled_bytes, losses, removals, removed_bytes,
        emergency_removals, prunes, disk_full;
    double min_free, seconds_under, byte_seconds;
    int64_t kept_removals, kept_steps;
    double *removal_time;
    int32_t *removal_image;
    int64_t *removal_bytes;
    uint8_t *removal_emergency;
    double *step_time;
    int64_t *step_free;
} result_t;

/* ---------------------------------------------------------------- bits: which uses will bring in */

/* Each level has a bit per word of the one below that is not 0. */
typedef struct {
    uint64_t *level[BIT_LEVELS];
    int32_t words[BIT_LEVELS];
    int levels;
} bits_t;

static int bits_make(bits_t *bits, int32_t count) {
    bits->levels = 0;
    int32_t words = count;
    do {
        words = words / 64 + 1;
        bits->words[bits->levels] = words;
        bits->level[bits->levels] = calloc((size_t)words, sizeof(uint64_t));
        if (!bits->level[bits->levels++]) return NO_MEMORY;
    } while (words > 1 && bits->levels < BIT_LEVELS);
    return OK;
}

static void bits_free(bits_t *bits) {
    for (int l = 0; l < bits->levels; l++) free(bits->level[l]);
}

static inline void bits_set(bits_t *bits, int32_t at) {
    for (int l = 0; l < bits->levels; l++) {
        uint64_t *word = &bits->level[l][at >> 6], before = *word;
        *word = before | (uint64_t)1 << (at & 63);
        if (before) return;
        at >>= 6;
    }
}

static inline void bits_clear(bits_t *bits, int32_t at) {
    for (int l = 0; l < bits->levels; l++) {
        uint64_t *word = &bits->level[l][at >> 6];
        *word &= ~((uint64_t)1 << (at & 63));
        if (*word) return;
        at >>= 6;
    }
}

/* The first bit set at `from` or later, or NOWHERE. */
static inline int32_t bits_next(const bits_t *bits, int32_t from) {
    for (int l = 0; l < bits->levels; l++) {
        int32_t word = from >> 6;
        if (word >= bits->words[l]) return NOWHERE;
        uint64_t found = bits->level[l][word] & ~(uint64_t)0 << (from & 63);
        if (found) {
            int32_t at = word * 64 + __builtin_ctzll(found);
            while (l-- > 0) at = at * 64 + __builtin_ctzll(bits->level[l][at]);
            return at;
        }
        from = word + 1;
    }
    return NOWHERE;
}

/* ---------------------------------------------------------------- the host */

typedef struct {
    int32_t spell, image; /* spell: -1 where an order other than lru decides */
    int64_t bytes;
    double inodes;
    uint8_t emergency, back;
} taken_t;

/* How far free space fell in each interval, as far as a later one was not as deep: the deepest is the first. */
typedef struct {
    double began, highest, deepest;
    int64_t count, first, last; /* falls so far; those in the ring */
    int64_t *number;
    double *fall;
    double threshold, levels[LEVELS];
    int32_t disk_class;
} falls_t;

/* An image to be ranked. */
typedef struct {
    double key;
    int32_t image;
} candidate_t;

/* What forecasts are made from on one day. */
typedef struct {
    int64_t day, counted[2 * AGES * HABITS * STAGES]; /* day: -1: none yet */
    double rate[AGES][HABITS * STAGES], beyond[AGES + 1][HABITS * STAGES];
} today_t;

typedef struct tools tools_t;

typedef struct run {
    const trace_t *trace;
    const policy_t *policy;
    result_t *out;
    const double *levels;
    double now, accounted;
    int32_t disk; /* disk states before this one have happened */
    int32_t position; /* uses before this one have happened */
    int64_t free, total, held_bytes, total_inodes, other_inodes;
    double held_inodes;
    uint8_t *held, *known;
    int32_t *holders;
    double *pulled;
    bits_t coming;
    int32_t upcoming; /* the next use that brings in */
    int64_t cursor;   /* spells before this one are over or on the list of those passed by */
    int32_t *passed, *kept;
    int32_t passed_count, passed_room;
    taken_t *taken;
    int32_t taken_count;
    double blind_end;
    int32_t gap;
    int64_t last_tick, due;
    int32_t disk_class;
    falls_t falls;
    double wake; /* no tick before can remove anything, unless something happens */
    /* for orders other than lru, and rules of age */
    double *last_use;
    int32_t *latest; /* per image its latest use */
    int32_t *uses;   /* per image how many containers and jobs */
    int32_t scanned;
    int32_t *present;
    double *keys;
    int32_t *ranked;
    candidate_t *candidate, *spare;
    today_t *today;
    moment_t *own;           /* a moment for which there was no room */
    const int32_t *asked_at; /* per image its latest use, as the decision sees it */
    tools_t *tools;          /* what a tool knows */
    int64_t room_removals, room_steps;
    int status;
} run_t;

static inline double free_inodes(const run_t *run) {
    return run->total_inodes ? (double)(run->total_inodes - run->other_inodes) - run->held_inodes : INFINITY;
}

static inline int reaches(double bytes, double inodes, const double *level) {
    return bytes >= level[0] && inodes >= level[1];
}

static inline int under_threshold(const run_t *run) {
    return !reaches((double)run->free, free_inodes(run), run->levels + THRESHOLD);
}

static inline void account(run_t *run) {
    double elapsed = run->now - run->accounted;
    if (elapsed > 0.0) {
        run->out->byte_seconds += (double)run->held_bytes * elapsed;
        if ((double)run->free < run->policy->level) run->out->seconds_under += elapsed;
        run->accounted = run->now;
    }
}

static inline void note(run_t *run) {
    result_t *out = run->out;
    if ((double)run->free < out->min_free) out->min_free = (double)run->free;
    if (!run->policy->keep_steps) return;
    if (out->kept_steps && out->step_free[out->kept_steps - 1] == run->free) return;
    if (out->kept_steps == run->room_steps) {
        int64_t room = run->room_steps ? 2 * run->room_steps : 1024;
        if (grow((void **)&out->step_time, room, sizeof *out->step_time) ||
            grow((void **)&out->step_free, room, sizeof *out->step_free)) {
            run->status = NO_MEMORY;
            return;
        }
        run->room_steps = room;
    }
    out->step_time[out->kept_steps] = run->now;
    out->step_free[out->kept_steps++] = run->free;
}

static inline int64_t hold(run_t *run, int32_t i) {
    const trace_t *t = run->trace;
    account(run);
    int64_t missing = t->own_bytes[i];
    double inodes = t->own_inodes[i];
    for (int32_t k = t->first[i]; k < t->first[i + 1]; k++) {
        int32_t g = t->group[k];
        if (run->holders[g]++ == 0) missing += t->group_bytes[g], inodes += t->group_inodes[g];
    }
    run->held[i] = run->known[i] = 1;
    run->pulled[i] = run->now;
    if (run->policy->order || run->policy->moments) run->wake = -INFINITY; /* it may be old */
    run->held_bytes += missing;
    run->held_inodes += inodes;
    run->free -= missing;
    run->out->disk_full += missing > 0 && run->free < 0;
    note(run);
    return missing;
}

static inline void await(run_t *run, int32_t use) {
    if (use >= run->trace->uses) return;
    bits_set(&run->coming, use);
    if (use < run->upcoming) run->upcoming = use;
}

static inline void record(run_t *run, int32_t i, int64_t bytes, int emergency) {
    result_t *out = run->out;
    out->removals++;
    out->removed_bytes += bytes;
    out->emergency_removals += emergency;
    if (!run->policy->keep_removals) return;
    if (out->kept_removals == run->room_removals) {
        int64_t room = run->room_removals ? 2 * run->room_removals : 1024;
        if (grow((void **)&out->removal_time, room, sizeof *out->removal_time) ||
            grow((void **)&out->removal_image, room, sizeof *out->removal_image) ||
            grow((void **)&out->removal_bytes, room, sizeof *out->removal_bytes) ||
            grow((void **)&out->removal_emergency, room, sizeof *out->removal_emergency)) {
            run->status = NO_MEMORY;
            return;
        }
        run->room_removals = room;
    }
    int64_t k = out->kept_removals++;
    out->removal_time[k] = run->now;
    out->removal_image[k] = i;
    out->removal_bytes[k] = bytes;
    out->removal_emergency[k] = (uint8_t)emergency;
}

/* Let go of an image's layers: what that frees is added up. Whether a layer went. */
static inline int release(run_t *run, int32_t i, int64_t *bytes, double *inodes) {
    const trace_t *t = run->trace;
    int went = t->has_own[i];
    *bytes = t->own_bytes[i];
    *inodes = t->own_inodes[i];
    for (int32_t k = t->first[i]; k < t->first[i + 1]; k++) {
        int32_t g = t->group[k];
        if (--run->holders[g] == 0) *bytes += t->group_bytes[g], *inodes += t->group_inodes[g], went = 1;
    }
    return went;
}

/* Whether any layer of a taken image is held by none that stays. */
static inline int frees_something(const run_t *run, int32_t i) {
    const trace_t *t = run->trace;
    if (t->has_own[i]) return 1;
    for (int32_t k = t->first[i]; k < t->first[i + 1]; k++)
        if (run->holders[t->group[k]] == 0) return 1;
    return 0;
}

static inline void removed(run_t *run, int32_t i, int64_t bytes, double inodes, int emergency) {
    run->held[i] = 0;
    run->held_bytes -= bytes;
    run->held_inodes -= inodes;
    run->free += bytes;
    note(run);
    record(run, i, bytes, emergency);
}

/* ---------------------------------------------------------------- the decision */

typedef struct {
    double limit; /* used later: too young, or a container lives */
    double floor; /* a gap may have hidden a use until then */
    double idle_since;
    double bytes, inodes;
    const double *goal;
} decision_t;

static void begin_decision(run_t *run, decision_t *d) {
    const trace_t *t = run->trace;
    const policy_t *p = run->policy;
    while (run->gap < t->gaps && t->gap_begin[run->gap] <= run->now) {
        if (t->gap_end[run->gap] > run->blind_end) run->blind_end = t->gap_end[run->gap];
        run->gap++;
    }
    double blind = run->blind_end < run->now ? run->blind_end : run->now;
    double grace = p->min_age < p->gap_grace ? p->min_age : p->gap_grace;
    d->floor = run->gap ? blind + grace - p->min_age : -INFINITY;
    d->limit = run->now - p->min_age;
    d->idle_since = run->now - p->allowlist_idle;
    d->bytes = (double)run->free;
    d->inodes = free_inodes(run);
    run->taken_count = 0;
}

static inline int spared(const run_t *run, const decision_t *d, int32_t i, double last_use) {
    return run->policy->protected[i] && (last_use > d->floor ? last_use : d->floor) >= d->idle_since;
}

static inline void take(run_t *run, decision_t *d, int32_t spell, int32_t i, int emergency) {
    taken_t *taken = &run->taken[run->taken_count++];
    taken->spell = spell;
    taken->image = i;
    taken->emergency = (uint8_t)emergency;
    taken->back = 0;
    release(run, i, &taken->bytes, &taken->inodes);
    d->bytes += (double)taken->bytes;
    d->inodes += taken->inodes;
}

/* Give back what would free nothing; how many. */
static int32_t give_back(run_t *run) {
    const trace_t *t = run->trace;
    int32_t count = 0;
    for (int32_t k = 0; k < run->taken_count; k++) {
        int32_t i = run->taken[k].image;
        if (frees_something(run, i)) continue;
        for (int32_t l = t->first[i]; l < t->first[i + 1]; l++) run->holders[t->group[l]]++;
        run->taken[k].back = 1;
        count++;
    }
    return count;
}

/* Take once more what was given back, after the rest: others that hold the same layers may go now. */
static void take_again(run_t *run) {
    const trace_t *t = run->trace;
    taken_t *again = run->taken + t->images + 1;
    int32_t kept = 0, count = 0;
    for (int32_t k = 0; k < run->taken_count; k++) {
        taken_t taken = run->taken[k];
        if (!taken.back) {
            run->taken[kept++] = taken;
            continue;
        }
        taken.back = 0;
        again[count++] = taken;
        for (int32_t l = t->first[taken.image]; l < t->first[taken.image + 1]; l++) run->holders[t->group[l]]--;
    }
    memcpy(run->taken + kept, again, (size_t)count * sizeof *again);
}

static int by_number(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? -1 : x > y;
}

static void carry_out(run_t *run) {
    const trace_t *t = run->trace;
    int any = 0;
    for (int32_t k = 0; k < run->taken_count; k++) {
        taken_t *taken = &run->taken[k];
        if (taken->back) continue;
        if (!any++) account(run);
        removed(run, taken->image, taken->bytes, taken->inodes, taken->emergency);
        await(run, taken->spell >= 0 ? t->next[taken->spell] : t->following[run->asked_at[taken->image]]);
    }
    run->out->prunes += any > 0;
}

static inline void keep(run_t *run, int32_t *count, int64_t spell) { run->kept[(*count)++] = (int32_t)spell; }

static int room_for(run_t *run, int32_t wanted) {
    if (wanted <= run->passed_room) return OK;
    int32_t room = 2 * wanted;
    if (grow((void **)&run->passed, room, sizeof *run->passed) || grow((void **)&run->kept, room, sizeof *run->kept))
        return NO_MEMORY;
    run->passed_room = room;
    return OK;
}

/* Least recently used first: spells that were passed by, then on from the cursor. */
static void decide_lru(run_t *run) {
    const trace_t *t = run->trace;
    decision_t d;
    begin_decision(run, &d);
    run->wake = -INFINITY;
    if (d.floor > d.limit) return; /* all may have been used in the gap */
    int32_t kept = 0, position = run->position;
    int reached = 0;
    d.goal = run->levels + TARGET;
    for (int32_t k = 0; k < run->passed_count; k++) {
        int32_t s = run->passed[k], i = t->spell_image[s];
        if (t->next[s] < position) continue;
        if (reached || t->at[s] >= position || t->end[s] > d.limit) {
            keep(run, &kept, s);
            continue;
        }
        if (!run->held[i] || (run->policy->keep_local && t->local[i])) continue;
        if (spared(run, &d, i, t->end[s])) {
            keep(run, &kept, s);
        } else if (reaches(d.bytes, d.inodes, d.goal)) {
            reached = 1;
            keep(run, &kept, s);
        } else {
            take(run, &d, s, i, 0);
        }
    }
    int64_t s = run->cursor;
    for (; s < t->spells && !reached; s++) {
        if (t->next[s] < position) continue;
        if (t->end[s] > d.limit) break;
        int32_t i = t->spell_image[s];
        if (t->at[s] >= position) {
            /* not yet: a use at this very moment, or one whose end lies before its beginning */
        } else if (!run->held[i] || (run->policy->keep_local && t->local[i])) {
            continue;
        } else if (!spared(run, &d, i, t->end[s])) {
            if (reaches(d.bytes, d.inodes, d.goal)) break;
            take(run, &d, (int32_t)s, i, 0);
            continue;
        }
        if (kept + 1 >= run->passed_room && room_for(run, kept + 2)) {
            run->status = NO_MEMORY;
            return;
        }
        keep(run, &kept, s);
    }
    run->cursor = s;
    int32_t back = give_back(run);
    d.goal = run->levels + EMERGENCY;
    if (!reaches(d.bytes, d.inodes, d.goal)) {
        int32_t rest = 0;
        take_again(run);
        for (int32_t k = 0; k < kept; k++) {
            int32_t q = run->kept[k], i = t->spell_image[q];
            if (t->at[q] < position && t->end[q] <= d.limit && run->held[i] && spared(run, &d, i, t->end[q]) &&
                !reaches(d.bytes, d.inodes, d.goal))
                take(run, &d, q, i, 1);
            else
                run->kept[rest++] = q;
        }
        kept = rest;
        back = give_back(run);
    }
    if (back) {
        if (room_for(run, kept + back + 1)) {
            run->status = NO_MEMORY;
            return;
        }
        for (int32_t k = 0; k < run->taken_count; k++)
            if (run->taken[k].back) keep(run, &kept, run->taken[k].spell);
        qsort(run->kept, (size_t)kept, sizeof *run->kept, by_number);
    }
    int32_t *swap = run->passed;
    run->passed = run->kept;
    run->kept = swap;
    run->passed_count = kept;
    if (!kept && run->taken_count == 0 && run->cursor < t->spells)
        run->wake = t->end[run->cursor] + run->policy->min_age - 0.001;
    else if (!kept && run->taken_count == 0)
        run->wake = INFINITY;
    carry_out(run);
}

/* Let all uses before the present position be known: when each image was last used and asked for. */
static void scan(run_t *run) {
    const trace_t *t = run->trace;
    for (int32_t p = run->scanned; p < run->position; p++) {
        int32_t i = t->image[p];
        run->latest[i] = p;
        run->uses[i] += t->kind[p] == CONTAINER || t->kind[p] == JOB;
        if (t->until[p] > run->last_use[i]) run->last_use[i] = t->until[p];
        if (t->kind[p] == PULL && run->held[i] && t->time[p] > run->pulled[i]) run->pulled[i] = t->time[p];
    }
    run->scanned = run->position;
}

static inline int goes_before(candidate_t a, candidate_t b) {
    return (a.key < b.key) | ((a.key == b.key) & (a.image < b.image));
}

/* The images that are present by their keys, in ascending order (merge sort). */
static void rank(run_t *run, int32_t count, int32_t *ranked) {
    candidate_t *from = run->candidate, *to = run->spare;
    for (int32_t k = 0; k < count; k++) {
        candidate_t added = {run->keys[k], run->present[k]};
        int32_t at = k;
        for (; at & (SORTED_APART - 1) && goes_before(added, from[at - 1]); at--) from[at] = from[at - 1];
        from[at] = added;
    }
    for (int32_t width = SORTED_APART; width < count; width *= 2) {
        for (int32_t low = 0; low < count; low += 2 * width) {
            int32_t a = low, middle = low + width < count ? low + width : count;
            int32_t b = middle, high = low + 2 * width < count ? low + 2 * width : count, k = low;
            while (a < middle && b < high) { /* without a branch on what is random */
                int second = goes_before(from[b], from[a]);
                to[k++] = from[second ? b : a];
                b += second, a += !second;
            }
            memcpy(to + k, from + a, sizeof *to * (size_t)(middle - a));
            memcpy(to + k + middle - a, from + b, sizeof *to * (size_t)(high - b));
        }
        candidate_t *swap = from;
        from = to, to = swap;
    }
    for (int32_t k = 0; k < count; k++) ranked[k] = from[k].image;
}

static inline double shrunk(int64_t returns, int64_t exposure, double expected, double trust) {
    return ((double)returns + trust) / ((double)exposure / 1000.0 + trust / expected);
}

/* The discounted chance of a return at this rate within the seconds left, or beyond them. */
static inline double chance(double rate, double left, double beyond) {
    double total = rate + 1 / DISCOUNT, passes = exp(-total * left);
    return rate / total * (1 - passes) + passes * beyond;
}

/* Let rates and what lies beyond each age be those of a day. */
static void turn_to(today_t *today, const learned_t *learned, int64_t day) {
    if (today->day == day) return;
    kernel_day(learned->learning, today->day, day, today->counted);
    today->day = day;
    for (int age = 0; age < AGES; age++) {
        const int64_t *returns = today->counted + age * HABITS * STAGES, *exposure = returns + AGES * HABITS * STAGES;
        int64_t of_stage[2][STAGES] = {{0}}, of_age[2] = {0};
        for (int c = 0; c < HABITS * STAGES; c++)
            of_stage[0][c % STAGES] += returns[c], of_stage[1][c % STAGES] += exposure[c];
        for (int stage = 0; stage < STAGES; stage++) of_age[0] += of_stage[0][stage], of_age[1] += of_stage[1][stage];
        double all = shrunk(of_age[0], of_age[1], learned->expected[age], learned->trust[0]), expected[STAGES];
        for (int stage = 0; stage < STAGES; stage++)
            expected[stage] = shrunk(of_stage[0][stage], of_stage[1][stage], all, learned->trust[1]);
        for (int c = 0; c < HABITS * STAGES; c++)
            today->rate[age][c] = shrunk(returns[c], exposure[c], expected[c % STAGES], learned->trust[2]);
    }
    memset(today->beyond[AGES], 0, sizeof today->beyond[AGES]);
    for (int age = AGES - 1; age >= 0; age--) {
        double width = age == AGES - 1 ? INFINITY : (double)(1 << (age ? age + LOWEST_BIN - 1 : LOWEST_BIN));
        for (int c = 0; c < HABITS * STAGES; c++)
            today->beyond[age][c] = chance(today->rate[age][c], width, today->beyond[age + 1][c]);
    }
}

/* Rates and what lies beyond each age on a day. */
void kernel_rates(const learned_t *learned, int64_t day, double *rates, double *beyond) {
    today_t today = {.day = -1};
    turn_to(&today, learned, day);
    memcpy(rates, today.rate, sizeof today.rate), memcpy(beyond, today.beyond, sizeof today.beyond);
}

static inline double forecast(const today_t *today, double idle, int habit, double superseded_for) {
    int age = bin_of(idle, LOWEST_BIN, AGES), c = habit * STAGES + stage_of(superseded_for);
    double left = age < AGES - 1 ? (double)(1 << (age + LOWEST_BIN)) - idle : INFINITY;
    return chance(today->rate[age][c], left > 0.0 ? left : 0.0, today->beyond[age + 1][c]);
}

/* Keys of images, at a moment up to which all is known. */
static int find_keys(run_t *run, int32_t count) {
    const learned_t *learned = run->policy->moments->learned;
    double now = run->now;
    if (!learned) return run->policy->moments->ask(now, count, run->present, run->keys) ? CALLBACK : OK;
    turn_to(run->today, learned, (llrint(now * 1000.0) + learned->offset) / DAY_MS);
    for (int32_t k = 0; k < count; k++) {
        int32_t i = run->present[k];
        double idle = run->last_use[i] < now ? now - run->last_use[i] : 0.0;
        run->keys[k] = forecast(run->today, idle, learned->habit[run->latest[i]], now - learned->superseded[i]);
    }
    return OK;
}

static moment_t *make_moment(int32_t images) {
    size_t n = (size_t)images + 1;
    moment_t *made = malloc(sizeof *made + n * (sizeof(double) + 2 * sizeof(int32_t)));
    if (!made) return NULL;
    made->last_use = (double *)(made + 1);
    made->latest = (int32_t *)(made->last_use + n);
    made->ranked = made->latest + n;
    return made;
}

/* Rank images as they stand now: all for all policies, or those that are there for this one. */
static int fill_moment(run_t *run, moment_t *moment, int shared) {
    const trace_t *t = run->trace;
    size_t n = (size_t)t->images;
    scan(run);
    memcpy(moment->last_use, run->last_use, n * sizeof *run->last_use);
    memcpy(moment->latest, run->latest, n * sizeof *run->latest);
    /* What is used at this very moment counts for the keys, also where it is still to happen. */
    int32_t position = run->position;
    for (int32_t p = position; p < t->uses && t->time[p] <= run->now; p++) {
        int32_t i = t->image[p];
        run->latest[i] = p;
        if (t->until[p] > run->last_use[i]) run->last_use[i] = t->until[p];
    }
    int32_t count = 0;
    for (int32_t i = 0; i < t->images; i++)
        if (run->latest[i] >= 0 && (shared || run->held[i])) run->present[count++] = i;
    int status = find_keys(run, count);
    memcpy(run->last_use, moment->last_use, n * sizeof *run->last_use);
    memcpy(run->latest, moment->latest, n * sizeof *run->latest);
    rank(run, count, moment->ranked);
    moment->count = count;
    return status;
}

static moment_t *begin_moment(run_t *run, moment_t *made) {
    if (!made && !(made = make_moment(run->trace->images))) {
        run->status = NO_MEMORY;
        return NULL;
    }
    made->now = run->now, made->position = run->position, made->ready = PENDING;
    return made;
}

/* The present moment, from another replay if one was here before; NULL: failed. */
static const moment_t *moment_of(run_t *run) {
    moments_t *all = run->policy->moments;
    uint64_t bits;
    memcpy(&bits, &run->now, sizeof bits);
    size_t at = (size_t)mixed(bits ^ mixed((uint64_t)run->position)) & (all->slots - 1);
    int64_t size = all->size;
    moment_t *found, *made = NULL;
    for (;; at = (at + 1) & (all->slots - 1)) {
        found = __atomic_load_n(&all->slot[at], __ATOMIC_ACQUIRE);
        if (!found) {
            if (!made && __atomic_sub_fetch(&all->room, size, __ATOMIC_RELAXED) < 0) {
                __atomic_add_fetch(&all->room, size, __ATOMIC_RELAXED);
                if (!(run->own = begin_moment(run, run->own))) return NULL;
                run->status = fill_moment(run, run->own, 0);
                return run->status == OK ? run->own : NULL;
            }
            if (!made && !(made = begin_moment(run, NULL))) return NULL;
            if (__atomic_compare_exchange_n(&all->slot[at], &found, made, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
                made->slot = at, made->next = __atomic_load_n(&all->kept, __ATOMIC_RELAXED);
                while (!__atomic_compare_exchange_n(&all->kept, &made->next, made, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
                }
                run->status = fill_moment(run, made, 1);
                __atomic_store_n(&made->ready, run->status, __ATOMIC_RELEASE);
                return run->status == OK ? made : NULL;
            }
        }
        if (found->now == run->now && found->position == run->position) break;
    }
    if (made) { /* another was quicker */
        free(made);
        __atomic_add_fetch(&all->room, size, __ATOMIC_RELAXED);
    }
    while (__atomic_load_n(&found->ready, __ATOMIC_ACQUIRE) == PENDING) sched_yield();
    run->status = found->ready;
    return run->status == OK ? found : NULL;
}

/* Keep moments in `room` bytes. */
moments_t *kernel_moments(int32_t images, const learned_t *learned, keys_t ask, int64_t room) {
    moments_t *all = calloc(1, sizeof *all);
    if (!all) return NULL;
    all->size = (int64_t)sizeof(moment_t) + 16 * ((int64_t)images + 1);
    int64_t most = room / all->size < MOST_MOMENTS ? room / all->size : MOST_MOMENTS;
    all->slots = 64;
    while ((int64_t)all->slots < 2 * most) all->slots *= 2;
    all->learned = learned;
    all->ask = ask;
    all->room = most * all->size;
    all->slot = calloc(all->slots, sizeof *all->slot);
    if (!all->slot) return free(all), NULL;
    return all;
}

/* Free all moments, which no replay may be at. */
void kernel_pass(moments_t *all) {
    for (moment_t *next; all->kept; all->kept = next) {
        next = all->kept->next;
        all->slot[all->kept->slot] = NULL;
        all->room += all->size;
        free(all->kept);
    }
}

/* The same for good. */
void kernel_forget(moments_t *all) {
    kernel_pass(all);
    free(all->slot), free(all);
}

/* Images as an order other than lru has them. */
typedef struct {
    int32_t count;
    const int32_t *ranked;
    const double *last_use;
} ordered_t;

static void order_all(run_t *run, ordered_t *ordered) {
    const moment_t *moment = moment_of(run);
    if (moment) *ordered = (ordered_t){moment->count, moment->ranked, moment->last_use}, run->asked_at = moment->latest;
}

static int64_t unique_size(const run_t *run, int32_t i) {
    const trace_t *t = run->trace;
    int64_t bytes = t->own_bytes[i];
    for (int32_t k = t->first[i]; k < t->first[i + 1]; k++)
        if (run->holders[t->group[k]] == 1) bytes += t->group_bytes[t->group[k]];
    return bytes;
}

/* Uses and the latest ends of them as they are known now; what is used at this very moment counts. */
static void look_ahead(run_t *run, int forth) {
    const trace_t *t = run->trace;
    for (int32_t p = run->position; p < t->uses && t->time[p] <= run->now; p++) {
        int32_t i = t->image[p];
        run->uses[i] += t->kind[p] == CONTAINER || t->kind[p] == JOB ? forth : 0;
        if (forth > 0 && t->until[p] > run->last_use[i]) run->last_use[i] = t->until[p];
    }
}

/* As `gdsf` in pruner.orders. */
static void find_gdsf(run_t *run, int32_t count) {
    size_t size = ((size_t)run->trace->images + 1) * sizeof *run->last_use;
    memcpy(run->candidate, run->last_use, size);
    look_ahead(run, 1);
    for (int32_t k = 0; k < count; k++) {
        int32_t i = run->present[k];
        double share = (double)unique_size(run, i) / (double)(run->policy->sizes[i] + (run->policy->sizes[i] == 0));
        double last = run->last_use[i] < run->now ? run->last_use[i] : run->now;
        run->keys[k] = last / 86400.0 + (double)run->uses[i] * share;
    }
    look_ahead(run, -1);
    memcpy(run->last_use, run->candidate, size);
}

/* The images that are there by what this policy did to them. */
static void order_present(run_t *run, ordered_t *ordered) {
    const trace_t *t = run->trace;
    scan(run);
    int32_t count = 0;
    for (int32_t i = 0; i < t->images; i++)
        if (run->held[i]) run->keys[count] = run->pulled[i], run->present[count++] = i;
    if (run->policy->order == GDSF) find_gdsf(run, count);
    rank(run, count, run->ranked);
    *ordered = (ordered_t){count, run->ranked, run->last_use};
    run->asked_at = run->latest;
}

static inline int shielded(const run_t *run, const decision_t *d, const ordered_t *ordered, int32_t i) {
    return ordered->last_use[i] > d->limit || (run->policy->keep_local && run->trace->local[i]);
}

/* When the first of the images that are there will be old enough. */
static double earliest(const run_t *run, const ordered_t *ordered) {
    double least = INFINITY;
    for (int32_t i = 0; i < run->trace->images; i++)
        if (run->held[i] && !(run->policy->keep_local && run->trace->local[i]) && ordered->last_use[i] < least)
            least = ordered->last_use[i];
    return least + run->policy->min_age - 0.001;
}

/* Any other order. */
static void decide_ordered(run_t *run) {
    decision_t d;
    ordered_t ordered = {0};
    begin_decision(run, &d);
    run->wake = -INFINITY;
    if (d.floor > d.limit) return;
    if (run->policy->moments)
        order_all(run, &ordered);
    else
        order_present(run, &ordered);
    if (run->status != OK) return;
    int going = 0;
    d.goal = run->levels + TARGET;
    for (int32_t k = 0; k < ordered.count && !reaches(d.bytes, d.inodes, d.goal); k++) {
        int32_t i = ordered.ranked[k];
        if (!run->held[i] || shielded(run, &d, &ordered, i)) continue;
        going = 1;
        if (!spared(run, &d, i, ordered.last_use[i])) take(run, &d, -1, i, 0);
    }
    if (!going) {
        run->wake = earliest(run, &ordered);
        return;
    }
    give_back(run);
    d.goal = run->levels + EMERGENCY;
    if (!reaches(d.bytes, d.inodes, d.goal)) {
        take_again(run);
        for (int32_t k = 0; k < ordered.count && !reaches(d.bytes, d.inodes, d.goal); k++) {
            int32_t i = ordered.ranked[k];
            if (run->held[i] && !shielded(run, &d, &ordered, i) && spared(run, &d, i, ordered.last_use[i]))
                take(run, &d, -1, i, 1);
        }
        give_back(run);
    }
    carry_out(run);
}

static void add_fall(falls_t *falls, int64_t kept, double fall) {
    int64_t number = falls->count++;
    while (falls->first < falls->last && falls->number[falls->first % kept] <= number - kept) falls->first++;
    while (falls->first < falls->last && falls->fall[(falls->last - 1) % kept] <= fall) falls->last--;
    falls->number[falls->last % kept] = number;
    falls->fall[falls->last++ % kept] = fall;
}

/* As Python's `a // b`, of a positive b. */
static double quotient_of(double a, double b) {
    double rest = fmod(a, b), quotient = (a - rest) / b;
    if (rest < 0) quotient -= 1.0;
    double whole = floor(quotient);
    return quotient - whole > 0.5 ? whole + 1.0 : whole;
}

/* As Python's `now // interval * interval`. */
static double begin_of(double now, double interval) { return quotient_of(now, interval) * interval; }

/* See what is free now. */
static void look(run_t *run) {
    const headroom_t *headroom = run->policy->headroom;
    if (!headroom) return;
    falls_t *falls = &run->falls;
    double free = (double)run->free, interval = run->policy->interval;
    if (run->now >= falls->began + interval) {
        double fall = falls->highest - free > falls->deepest ? falls->highest - free : falls->deepest;
        if (falls->highest > -INFINITY) add_fall(falls, headroom->kept, fall > 0.0 ? fall : 0.0);
        falls->began = begin_of(run->now, interval);
        falls->highest = free, falls->deepest = 0.0;
    }
    if (free > falls->highest) falls->highest = free;
    if (falls->highest - free > falls->deepest) falls->deepest = falls->highest - free;
}

/* Let the levels be those for what is known of falls by now. */
static void resolve(run_t *run) {
    const headroom_t *headroom = run->policy->headroom;
    if (!headroom) return;
    falls_t *falls = &run->falls;
    int64_t count = falls->count < headroom->kept ? falls->count : headroom->kept;
    run->levels = run->policy->levels + LEVELS * run->disk_class;
    if (count < headroom->enough) return;
    double total = (double)run->total, threshold = falls->fall[falls->first % headroom->kept] * headroom->margin;
    if (threshold < headroom->least * total) threshold = headroom->least * total;
    if (threshold > headroom->most * total) threshold = headroom->most * total;
    if (threshold != falls->threshold || run->disk_class != falls->disk_class) {
        if (headroom->levels(run->disk_class, threshold, falls->levels)) {
            run->status = CALLBACK;
            return;
        }
        falls->threshold = threshold, falls->disk_class = run->disk_class;
    }
    run->levels = falls->levels;
}

static void decide(run_t *run) {
    look(run);
    resolve(run);
    if (run->status != OK || !under_threshold(run)) return;
    if (run->policy->order || run->policy->moments)
        decide_ordered(run);
    else
        decide_lru(run);
    look(run);
}

/* ---------------------------------------------------------------- what others do */

static void apply_rule(run_t *run) {
    const trace_t *t = run->trace;
    const age_rule_t *rule = run->policy->rule;
    int64_t before = run->out->removals;
    if (rule->low >= 0.0 && !((double)run->free < rule->low * (double)run->total)) return;
    scan(run);
    const double *since = rule->clock == BUILT ? rule->built : rule->clock == PULLED ? run->pulled : run->last_use;
    for (int32_t i = 0; i < t->images; i++) {
        if (!run->held[i] || run->last_use[i] > run->now || !rule->removable[i]) continue;
        if (!(since[i] < run->now - rule->age)) continue;
        int64_t bytes;
        double inodes;
        account(run);
        release(run, i, &bytes, &inodes);
        removed(run, i, bytes, inodes, 0);
        await(run, t->following[run->latest[i]]);
    }
    run->out->prunes += run->out->removals > before;
}

/* ---------------------------------------------------------------- the replay */

/* A use of an image that is not there. */
static void bring(run_t *run, int32_t use) {
    const trace_t *t = run->trace;
    int32_t i = t->image[use];
    uint8_t kind = t->kind[use];
    int demands = kind >= CONTAINER && kind <= JOB, first = !run->known[i];
    if (kind == ARRIVED || (kind == FOUND && first) || (demands && (!t->local[i] || first))) {
        int64_t missing = hold(run, i);
        look(run);
        if (demands && !t->local[i]) {
            if (first)
                run->out->compulsory++, run->out->compulsory_bytes += missing;
            else
                run->out->repulls++, run->out->repulled_bytes += missing;
        }
        if (run->policy->at_events) decide(run);
    } else {
        run->out->losses += demands;
        await(run, t->following[use]);
    }
}

/* Move on to the first use after `now`. */
static void advance(run_t *run) {
    const trace_t *t = run->trace;
    const double *time = t->time;
    int32_t low = run->position, high = t->uses;
    if (low >= high || time[low] > run->now) return;
    int32_t part = part_of(run->now, t->scale, t->parts);
    if (t->before[part] > low) low = t->before[part];
    if (t->before[part + 1] < high) high = t->before[part + 1];
    /* As if uses were evenly spread, then around there. */
    double share = run->now * t->scale - (double)part;
    int32_t guess = low + (int32_t)((double)(high - low) * (share > 0.0 ? share < 1.0 ? share : 1.0 : 0.0));
    if (guess < high && time[guess] <= run->now) {
        low = guess + 1;
        for (int32_t step = 4; step < high - low; step *= 2) {
            if (time[low + step] > run->now) {
                high = low + step;
                break;
            }
            low += step + 1;
        }
    } else if (guess < high) {
        high = guess;
        for (int32_t step = 4; step < high - low; step *= 2) {
            if (time[high - step] <= run->now) {
                low = high - step + 1;
                break;
            }
            high -= step;
        }
    }
    while (low < high) { /* the first whose time is later */
        int32_t middle = low + (high - low) / 2;
        if (time[middle] <= run->now)
            low = middle + 1;
        else
            high = middle;
    }
    run->position = low;
}

static double tick_time(run_t *run, int64_t ticks) {
    double interval = run->policy->interval;
    if (!ticks || run->last_tick >= ticks) return INFINITY;
    int64_t k = run->last_tick + 1;
    if (!run->policy->rule && !run->policy->headroom) {
        if (!under_threshold(run)) return INFINITY;
        double earliest = run->now > run->wake ? run->now : run->wake;
        if (earliest > (double)ticks * interval) return INFINITY;
        int64_t due = (int64_t)(earliest / interval);
        due = due > 0 ? due - 1 : 0;
        while ((double)due * interval < earliest) due++;
        if (due > k) k = due;
    }
    run->due = k;
    return k <= ticks ? (double)k * interval : INFINITY;
}

/* ---------------------------------------------------------------- other tools: see analyzer.baselines */

typedef struct {
    double first, second;
    int32_t image;
} turn_t;

struct tools {
    double began, start, earliest; /* the latest restart; what it counts from; when something may go next */
    double *noted, *seen;          /* per image what the tool remembers; NAN: nothing */
    int32_t *listed, listed_count; /* in the order in which it met them */
    turn_t *turns, *due;           /* images in turn; a heap of what is to come */
    int64_t due_count, due_room;
    int32_t begun, *present;
};

static int in_turn(const void *a, const void *b) {
    const turn_t *x = a, *y = b;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    if (x->second != y->second) return x->second < y->second ? -1 : 1;
    return x->image < y->image ? -1 : x->image > y->image;
}

static int make_tools(run_t *run) {
    size_t n = (size_t)run->trace->images + 1;
    tools_t *made = run->tools = calloc(1, sizeof *made);
    if (!made) return NO_MEMORY;
    made->noted = malloc(n * sizeof *made->noted), made->seen = malloc(n * sizeof *made->seen);
    made->listed = malloc(n * sizeof *made->listed), made->present = malloc(n * sizeof *made->present);
    made->turns = malloc(n * sizeof *made->turns);
    if (!made->noted || !made->seen || !made->listed || !made->present || !made->turns) return NO_MEMORY;
    for (size_t i = 0; i < n; i++) made->noted[i] = made->seen[i] = NAN;
    return OK;
}

static void free_tools(tools_t *tools) {
    if (!tools) return;
    free(tools->noted), free(tools->seen), free(tools->listed), free(tools->present), free(tools->turns), free(tools->due);
    free(tools);
}

static void push_due(run_t *run, turn_t added) {
    tools_t *tools = run->tools;
    if (tools->due_count == tools->due_room) {
        int64_t room = tools->due_room ? 2 * tools->due_room : 1024;
        if ((run->status = grow((void **)&tools->due, room, sizeof *tools->due)) != OK) return;
        tools->due_room = room;
    }
    int64_t at = tools->due_count++;
    for (; at && in_turn(&added, &tools->due[(at - 1) / 2]) < 0; at = (at - 1) / 2)
        tools->due[at] = tools->due[(at - 1) / 2];
    tools->due[at] = added;
}

static turn_t pop_due(tools_t *tools) {
    turn_t *due = tools->due, first = due[0], last = due[--tools->due_count];
    int64_t at = 0;
    for (int64_t child; (child = 2 * at + 1) < tools->due_count; at = child) {
        if (child + 1 < tools->due_count && in_turn(&due[child + 1], &due[child]) < 0) child++;
        if (in_turn(&due[child], &last) >= 0) break;
        due[at] = due[child];
    }
    due[at] = last;
    return first;
}

static int restarted(run_t *run, double now) {
    double restarts = run->policy->tool->restarts;
    if (!(restarts > 0) || now - run->tools->began < restarts) return 0;
    run->tools->began += begin_of(now - run->tools->began, restarts);
    return 1;
}

static void forget(run_t *run, double *what) {
    for (int32_t i = 0; i < run->trace->images; i++) what[i] = NAN;
}

static inline int pinned(const run_t *run, int32_t i) { return run->last_use[i] > run->now; }

static inline double seen_use(const run_t *run, int32_t i) { return pinned(run, i) ? run->now : run->last_use[i]; }

/* The images that are there, in order of first sight; how many. */
static int32_t list_present(run_t *run) {
    int32_t count = 0, n = run->trace->images;
    for (int32_t i = 0; i < n; i++) {
        if (i + 8 <= n) {
            uint64_t eight;
            memcpy(&eight, run->held + i, sizeof eight);
            if (!eight) {
                i += 7;
                continue;
            }
        }
        if (run->held[i]) run->tools->present[count++] = i;
    }
    return count;
}

static int64_t discard(run_t *run, int32_t i) {
    int64_t bytes;
    double inodes;
    account(run);
    release(run, i, &bytes, &inodes);
    removed(run, i, bytes, inodes, 0);
    return bytes;
}

/* amount: share of the disk; clock (0: use, 1: pull, 2: job). */
static void tick_stone(run_t *run) {
    const double *amount = run->policy->tool->amount, low = amount[0] * (double)run->total;
    tools_t *tools = run->tools;
    if (!((double)run->free < low)) return;
    int32_t count = 0, present = list_present(run);
    for (int32_t k = 0; k < present; k++) {
        int32_t i = tools->present[k];
        if (pinned(run, i)) continue;
        double time = amount[1] == 0 ? seen_use(run, i) : amount[1] == 1 || isnan(tools->noted[i]) ? run->pulled[i] : tools->noted[i];
        tools->turns[count++] = (turn_t){time, 0, i};
    }
    qsort(tools->turns, (size_t)count, sizeof *tools->turns, in_turn);
    for (int32_t k = 0; k < count && !((double)run->free >= low); k++) discard(run, tools->turns[k].image);
}

/* amount: capacity, or share of the disk if that is not negative. */
static void vacuum(run_t *run) {
    const double *amount = run->policy->tool->amount, limit = amount[1] < 0 ? amount[0] : amount[1] * (double)run->total;
    tools_t *tools = run->tools;
    if ((double)run->held_bytes <= limit) return;
    int32_t count = 0, present = list_present(run);
    for (int32_t k = 0; k < present; k++)
        if (!pinned(run, tools->present[k]))
            tools->turns[count++] = (turn_t){run->last_use[tools->present[k]], 0, tools->present[k]};
    qsort(tools->turns, (size_t)count, sizeof *tools->turns, in_turn);
    for (int32_t k = 0; k < count && !((double)run->held_bytes <= limit); k++) discard(run, tools->turns[k].image);
}

/* amount: capacity, youngest age. */
static void tick_drone_gc(run_t *run) {
    const tool_t *tool = run->policy->tool;
    tools_t *tools = run->tools;
    if (restarted(run, run->now)) forget(run, tools->noted);
    int64_t believed = run->held_bytes;
    if ((double)believed < tool->amount[0]) return;
    int32_t count = 0, present = list_present(run);
    for (int32_t k = 0; k < present; k++) {
        int32_t i = tools->present[k];
        if (pinned(run, i)) continue;
        double time = isnan(tools->noted[i]) ? tool->built[i] : tools->noted[i];
        if (run->now - time >= tool->amount[1]) {
            int64_t booked = 2 * tool->sizes[i] - unique_size(run, i);
            tools->seen[i] = (double)booked;
            tools->turns[count++] = (turn_t){time, 0, i};
        }
    }
    qsort(tools->turns, (size_t)count, sizeof *tools->turns, in_turn);
    for (int32_t k = 0; k < count; k++) {
        int32_t i = tools->turns[k].image;
        int64_t freed = discard(run, i);
        believed -= tool->exact ? freed : (int64_t)tools->seen[i];
        if ((double)believed < tool->amount[0]) return;
    }
}

/* Unused images by the latest poll that saw them used, then the first one that saw them; `age`: only those unseen for longer. */
static int32_t rank_polled(run_t *run, double age) {
    tools_t *tools = run->tools;
    int32_t count = 0, present = list_present(run);
    for (int32_t k = 0; k < present; k++) {
        int32_t i = tools->present[k];
        int never = isnan(tools->noted[i]);
        if (pinned(run, i) || !(run->now - (never ? -INFINITY : tools->noted[i]) > age)) continue;
        tools->turns[count++] = (turn_t){never ? 0.0 : tools->noted[i], tools->seen[i], i};
    }
    qsort(tools->turns, (size_t)count, sizeof *tools->turns, in_turn);
    return count;
}

/* amount: high and low usage in per cent, highest age (0: none), youngest age. */
static void tick_kubelet(run_t *run) {
    const tool_t *tool = run->policy->tool;
    const double *amount = tool->amount;
    tools_t *tools = run->tools;
    if (restarted(run, run->now)) {
        tools->start = run->now;
        forget(run, tools->noted), forget(run, tools->seen);
    }
    for (int32_t i = 0; i < run->trace->images; i++) {
        if (!run->held[i])
            tools->seen[i] = tools->noted[i] = NAN;
        else {
            if (isnan(tools->seen[i])) tools->seen[i] = run->now;
            if (pinned(run, i)) tools->noted[i] = run->now;
        }
    }
    if (amount[2] > 0 && run->now - tools->start > amount[2]) {
        int32_t count = rank_polled(run, amount[2]);
        for (int32_t k = 0; k < count; k++) discard(run, tools->turns[k].image);
    }
    double total = (double)run->total;
    if (!(100 - (int64_t)((double)(run->free * 100) / total) >= (int64_t)amount[0])) return;
    double need = (double)(run->total * (100 - (int64_t)amount[1])) / 100.0 - (double)run->free;
    int32_t count = rank_polled(run, -INFINITY);
    for (int32_t k = 0; k < count; k++) {
        int32_t i = tools->turns[k].image;
        if (run->now - tools->seen[i] < amount[3]) continue;
        int64_t freed = discard(run, i);
        need -= (double)(tool->exact ? freed : tool->sizes[i]);
        if (need <= 0) return;
    }
}

/* amount: how many at once, how long containers are kept, youngest age. */
static void tick_ecs(run_t *run) {
    const double *amount = run->policy->tool->amount;
    tools_t *tools = run->tools;
    int32_t count = 0, present = list_present(run);
    for (int32_t k = 0; k < present; k++) {
        int32_t i = tools->present[k];
        if (run->now - tools->noted[i] > amount[2] && run->now >= run->last_use[i] + amount[1])
            tools->turns[count++] = (turn_t){run->last_use[i], 0, i};
    }
    qsort(tools->turns, (size_t)count, sizeof *tools->turns, in_turn);
    for (int32_t k = 0; k < count && k < (int32_t)amount[0]; k++) discard(run, tools->turns[k].image);
}

/* amount: delay. */
static void wait_nomad(run_t *run, double until) {
    tools_t *tools = run->tools;
    if (restarted(run, until)) tools->due_count = 0;
    while (tools->due_count && tools->due[0].first <= until) {
        turn_t due = pop_due(tools);
        if (!run->held[due.image] || run->last_use[due.image] + run->policy->tool->amount[0] != due.first) continue;
        if (due.first > run->now) run->now = due.first;
        discard(run, due.image);
    }
}

/* amount: time to live, free bytes, period. */
static void sweep_marked(run_t *run) {
    tools_t *tools = run->tools;
    int full = (double)run->free <= run->policy->tool->amount[1];
    int32_t kept = 0;
    for (int32_t k = 0; k < tools->listed_count; k++) {
        int32_t i = tools->listed[k];
        if (full || tools->noted[i] < run->now) {
            if (!pinned(run, i) && run->held[i]) discard(run, i);
            if (!run->held[i]) {
                tools->noted[i] = NAN;
                continue;
            }
        }
        tools->listed[kept++] = i;
    }
    tools->listed_count = kept;
}

static void wait_taskcluster(run_t *run, double until) {
    tools_t *tools = run->tools;
    const double *amount = run->policy->tool->amount, period = amount[2];
    if (!((double)run->free <= amount[1]) && tools->earliest > until) return;
    double tick = begin_of(run->now, period) + period;
    while (tick <= until) {
        run->now = tick;
        sweep_marked(run);
        int full = (double)run->free <= amount[1];
        tools->earliest = INFINITY;
        for (int32_t k = 0; k < tools->listed_count; k++) {
            int32_t i = tools->listed[k];
            double next = full || run->last_use[i] > tools->noted[i] ? run->last_use[i] : tools->noted[i];
            if (next < tools->earliest) tools->earliest = next;
        }
        double next = -quotient_of(-tools->earliest, period) * period; /* never: not a number */
        tick = next > tick + period ? next : tick + period;
    }
}

/* amount: quota. */
static void clean_arvados(run_t *run) {
    const tool_t *tool = run->policy->tool;
    tools_t *tools = run->tools;
    int32_t count = 0, present = list_present(run), live = 0;
    for (int32_t k = 0; k < present; k++) {
        int32_t i = tools->present[k];
        if (isnan(tools->noted[i])) continue;
        tools->turns[count++] = (turn_t){-tools->noted[i], 0, -i};
        live += pinned(run, i);
    }
    qsort(tools->turns, (size_t)count, sizeof *tools->turns, in_turn);
    int64_t left = (int64_t)tool->amount[0];
    int32_t going = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int32_t k = 0; k < count; k++) {
            int32_t i = -tools->turns[k].image;
            int is_live = live ? pinned(run, i) : k == 0;
            int64_t bytes = tool->exact ? unique_size(run, i) : tool->sizes[i];
            if (!pass)
                left -= is_live ? bytes : 0;
            else if (!is_live && bytes <= left)
                left -= bytes;
            else if (!is_live)
                tools->present[going++] = i;
        }
    while (going) discard(run, tools->present[--going]);
}

static void wait_arvados(run_t *run, double until) {
    tools_t *tools = run->tools;
    if (restarted(run, until)) forget(run, tools->noted);
    while (tools->due_count && tools->due[0].first <= until) {
        turn_t due = pop_due(tools);
        if (due.first > run->now) run->now = due.first;
        clean_arvados(run);
    }
}

static void tool_used(run_t *run, int32_t i, int brought, int counts) {
    const tool_t *tool = run->policy->tool;
    tools_t *tools = run->tools;
    if (tool->kind == STONE) {
        if (brought || counts) tools->noted[i] = run->now;
    } else if (tool->kind == DOCUUM) {
        if (brought || !tools->begun) tools->begun = 1, vacuum(run);
    } else if (tool->kind == DRONE_GC) {
        if (counts) tools->noted[i] = run->now;
    } else if (tool->kind == ECS) {
        if (brought || isnan(tools->noted[i])) tools->noted[i] = run->now;
    } else if (tool->kind == NOMAD) {
        push_due(run, (turn_t){run->last_use[i] + tool->amount[0], 0, i});
    } else if (tool->kind == TASKCLUSTER) {
        if (isnan(tools->noted[i])) tools->listed[tools->listed_count++] = i;
        tools->noted[i] = run->now + tool->amount[0];
        double next = run->last_use[i] > tools->noted[i] ? run->last_use[i] : tools->noted[i];
        if (next < tools->earliest) tools->earliest = next;
    } else if (tool->kind == ARVADOS && counts) {
        tools->noted[i] = run->now;
        push_due(run, (turn_t){run->last_use[i], 0, 0});
        clean_arvados(run);
    }
}

static void tool_waits(run_t *run, double until) {
    if (run->policy->tool->kind == NOMAD) wait_nomad(run, until);
    if (run->policy->tool->kind == TASKCLUSTER) wait_taskcluster(run, until);
    if (run->policy->tool->kind == ARVADOS) wait_arvados(run, until);
}

static void tool_ticks(run_t *run) {
    if (run->policy->tool->kind == STONE) tick_stone(run);
    if (run->policy->tool->kind == DRONE_GC) tick_drone_gc(run);
    if (run->policy->tool->kind == KUBELET) tick_kubelet(run);
    if (run->policy->tool->kind == ECS) tick_ecs(run);
}

static void use_with_tool(run_t *run, int32_t use) {
    const trace_t *t = run->trace;
    int32_t i = t->image[use];
    uint8_t kind = t->kind[use];
    int before = run->held[i];
    if (!before) bring(run, use);
    if (t->until[use] > run->last_use[i]) run->last_use[i] = t->until[use];
    if (kind == PULL && run->held[i]) run->pulled[i] = run->now;
    tool_used(run, i, run->held[i] && !before, kind == CONTAINER || kind == JOB);
}

static void change_disk(run_t *run, int32_t disk) {
    const trace_t *t = run->trace;
    account(run);
    int was_full = run->free < 0;
    run->total = t->disk_total[disk];
    run->free = run->total - t->disk_other[disk] - run->held_bytes;
    run->total_inodes = t->inode_total[disk];
    run->other_inodes = t->inode_other[disk];
    run->disk_class = t->disk_class[disk];
    run->levels = run->policy->levels + LEVELS * run->disk_class;
    run->out->disk_full += run->free < 0 && !was_full;
    note(run);
}

/* Go on to a time under a tool: all uses matter to it. */
static void play_tool(run_t *run, double until) {
    const trace_t *t = run->trace;
    double interval = run->policy->interval;
    int64_t ticks = interval > 0 ? (int64_t)(t->trace_end / interval) : 0;
    while (run->status == OK) {
        double use_time = run->position < t->uses ? t->time[run->position] : INFINITY;
        double disk_time = run->disk < t->disks ? t->disk_time[run->disk] : INFINITY;
        double tick = run->last_tick < ticks ? (double)(run->last_tick + 1) * interval : INFINITY;
        double next = use_time < tick ? use_time : tick;
        if (disk_time < next) next = disk_time;
        if (next > until || next == INFINITY) break;
        int64_t before = run->out->removals;
        tool_waits(run, next);
        run->now = next;
        if (disk_time == next)
            change_disk(run, run->disk++);
        else if (use_time == next)
            use_with_tool(run, run->position++);
        else
            run->last_tick++, tool_ticks(run);
        run->out->prunes += run->out->removals > before;
    }
    if (until == INFINITY && run->status == OK) tool_waits(run, t->trace_end);
}

/* Go on to a time, with all that happens then. */
static void play(run_t *run, double until) {
    const trace_t *t = run->trace;
    int64_t ticks = run->policy->interval > 0 ? (int64_t)(t->trace_end / run->policy->interval) : 0;
    int32_t disk = run->disk;
    double tick = tick_time(run, ticks);
    while (run->status == OK) {
        double use_time = run->upcoming < t->uses ? t->time[run->upcoming] : INFINITY;
        double disk_time = disk < t->disks ? t->disk_time[disk] : INFINITY;
        double next = use_time < tick ? use_time : tick;
        if (disk_time > until && next > until) break;
        if (disk_time <= next) {
            if (disk_time == INFINITY) break;
            /* What is used at the same moment has not happened yet: the disk comes first. */
            run->now = disk_time;
            if (run->policy->at_events) {
                advance(run);
                while (run->position > 0 && t->time[run->position - 1] >= disk_time) run->position--;
            }
            change_disk(run, disk);
            look(run);
            disk++;
            if (run->policy->at_events) decide(run);
        } else if (use_time <= tick) {
            int32_t use = run->upcoming;
            run->now = use_time;
            run->position = use + 1;
            bits_clear(&run->coming, use);
            run->upcoming = bits_next(&run->coming, use + 1);
            bring(run, use);
        } else {
            run->now = tick;
            run->last_tick = run->due;
            advance(run);
            if (run->policy->rule)
                apply_rule(run);
            else
                decide(run);
        }
        tick = tick_time(run, ticks);
    }
    run->disk = disk;
}

/* End a replay; whether it went well. */
int kernel_end(run_t *run) {
    int status = run->status;
    if (status == OK) {
        run->now = run->trace->trace_end;
        account(run);
        status = run->status;
    }
    free(run->held), free(run->known), free(run->holders), free(run->pulled), free(run->taken);
    free(run->passed), free(run->kept), free(run->last_use), free(run->latest), free(run->uses), free(run->present), free(run->keys);
    free(run->ranked), free(run->candidate), free(run->today), free(run->own), free(run->falls.number), free(run->falls.fall);
    bits_free(&run->coming);
    free_tools(run->tools);
    free(run);
    return status;
}

/* What an order other than lru, or a rule of age, needs. */
static int make_ordered(run_t *run) {
    size_t n = (size_t)run->trace->images + 1;
    run->last_use = malloc(n * sizeof *run->last_use);
    run->latest = malloc(n * sizeof *run->latest);
    run->uses = calloc(n, sizeof *run->uses);
    run->present = malloc(n * sizeof *run->present);
    run->keys = malloc(n * sizeof *run->keys);
    run->ranked = malloc(n * sizeof *run->ranked);
    run->candidate = malloc(2 * n * sizeof *run->candidate);
    run->today = malloc(sizeof *run->today);
    if (!run->last_use || !run->latest || !run->uses || !run->present || !run->keys || !run->ranked || !run->candidate || !run->today)
        return NO_MEMORY;
    for (size_t i = 0; i < n; i++) run->last_use[i] = -INFINITY, run->latest[i] = -1;
    run->spare = run->candidate + n;
    run->today->day = -1;
    return OK;
}

static int make_run(run_t *run) {
    const trace_t *trace = run->trace;
    const policy_t *policy = run->policy;
    size_t n = (size_t)trace->images + 1;
    run->held = calloc(n, 1);
    run->known = calloc(n, 1);
    run->holders = calloc((size_t)trace->groups + 1, sizeof *run->holders);
    run->pulled = malloc(n * sizeof *run->pulled);
    run->taken = malloc(2 * n * sizeof *run->taken);
    if (!run->held || !run->known || !run->holders || !run->pulled || !run->taken || room_for(run, 64)) return NO_MEMORY;
    if (bits_make(&run->coming, trace->uses) != OK) return NO_MEMORY;
    if ((policy->order || policy->moments || policy->rule || policy->tool) && make_ordered(run) != OK) return NO_MEMORY;
    if (policy->tool && make_tools(run) != OK) return NO_MEMORY;
    if (policy->headroom) {
        run->falls.number = malloc((size_t)policy->headroom->kept * sizeof *run->falls.number);
        run->falls.fall = malloc((size_t)policy->headroom->kept * sizeof *run->falls.fall);
        if (!run->falls.number || !run->falls.fall) return NO_MEMORY;
    }
    for (int32_t i = 0; i < trace->images; i++) {
        run->pulled[i] = -INFINITY;
        if (trace->bringing[i] < trace->uses) bits_set(&run->coming, trace->bringing[i]);
    }
    run->upcoming = bits_next(&run->coming, 0);
    return OK;
}

/* Begin the replay of a trace under one policy; NULL: failed. */
run_t *kernel_begin(const trace_t *trace, const policy_t *policy, result_t *out) {
    run_t *run = calloc(1, sizeof *run);
    memset(out, 0, sizeof *out);
    if (!run) return NULL;
    out->min_free = INFINITY;
    run->trace = trace;
    run->policy = policy;
    run->out = out;
    run->levels = policy->levels;
    run->wake = run->blind_end = -INFINITY;
    run->falls.highest = -INFINITY, run->falls.disk_class = -1;
    run->status = make_run(run);
    if (run->status == OK) return run;
    kernel_end(run);
    return NULL;
}

/* Let replays go on to a time. */
void kernel_play(int32_t count, run_t *const *runs, double until) {
    for (int32_t k = 0; k < count; k++) {
        if (runs[k]->policy->tool)
            play_tool(runs[k], until);
        else
            play(runs[k], until);
    }
}

/* Free what a result holds. */
void kernel_release(result_t *out) {
    free(out->removal_time), free(out->removal_image), free(out->removal_bytes), free(out->removal_emergency);
    free(out->step_time), free(out->step_free);
    memset(out, 0, sizeof *out);
}

/* ---------------------------------------------------------------- the bound of analyzer.bounds */

typedef struct {
    double time, key;
    int32_t layer, version;
} pending_t;

typedef struct {
    pending_t *entry;
    int64_t count;
} heap_t;

static inline int first_of(const pending_t *a, const pending_t *b) {
    if (a->time != b->time) return a->time < b->time;
    if (a->key != b->key) return a->key < b->key;
    return a->layer != b->layer ? a->layer < b->layer : a->version < b->version;
}

static void heap_push(heap_t *heap, pending_t entry) {
    int64_t at = heap->count++;
    for (; at && first_of(&entry, &heap->entry[(at - 1) / 2]); at = (at - 1) / 2)
        heap->entry[at] = heap->entry[(at - 1) / 2];
    heap->entry[at] = entry;
}

static pending_t heap_pop(heap_t *heap) {
    pending_t first = heap->entry[0], last = heap->entry[--heap->count];
    int64_t at = 0;
    for (int64_t child; (child = 2 * at + 1) < heap->count; at = child) {
        if (child + 1 < heap->count && first_of(&heap->entry[child + 1], &heap->entry[child])) child++;
        if (!first_of(&heap->entry[child], &last)) break;
        heap->entry[at] = heap->entry[child];
    }
    heap->entry[at] = last;
    return first;
}

/* What a layer's uses between two ticks come to; by tick, then layer. */
typedef struct {
    int64_t count;
    const int64_t *tick;
    const int32_t *layer;
    const uint8_t *needed, *costs;
    const double *until, *doubtful, *following;
    int32_t layers, states, gaps;
    const int64_t *size;
    const double *disk_time, *allowed, *gap_begin, *gap_end;
    double interval, grace;
    int64_t ticks;
} needs_t;

typedef struct {
    double *held, *exempt, *doubtful;
    int32_t *version;
    uint8_t *counted;
    heap_t heap, waiting;
    double total, repulled;
    int too_much;
} fractions_t;

static void need_layer(const needs_t *needs, fractions_t *f, int64_t k) {
    int32_t l = needs->layer[k];
    double now = (double)needs->tick[k] * needs->interval, size = (double)needs->size[l];
    if (needs->until[k] > f->exempt[l]) f->exempt[l] = needs->until[k];
    if (needs->doubtful[k] > f->doubtful[l]) f->doubtful[l] = needs->doubtful[k];
    int doubtful = f->doubtful[l] > now;
    if (doubtful) {
        if (f->counted[l]) f->total -= f->held[l];
        f->counted[l] = 0;
    }
    if (!needs->needed[k]) return;
    if (needs->costs[k]) f->repulled += size - f->held[l];
    if (!doubtful) {
        f->total += size - (f->counted[l] ? f->held[l] : 0.0);
        f->counted[l] = 1;
    }
    f->held[l] = size;
    heap_push(&f->heap, (pending_t){0.0, -needs->following[k], l, ++f->version[l]});
}

static int is_blind(const needs_t *needs, double now) {
    for (int32_t k = 0; k < needs->gaps; k++) {
        double end = needs->gap_end[k] < now ? needs->gap_end[k] : now;
        if (needs->gap_begin[k] <= now && end + needs->grace > now) return 1;
    }
    return 0;
}

static void drop_bytes(const needs_t *needs, fractions_t *f, double now, double allowed) {
    f->too_much = f->total > allowed;
    if (!f->too_much || is_blind(needs, now)) return;
    while (f->waiting.count && f->waiting.entry[0].time <= now) {
        pending_t entry = heap_pop(&f->waiting);
        entry.time = 0.0;
        heap_push(&f->heap, entry);
    }
    while (f->total > allowed && f->heap.count) {
        pending_t entry = f->heap.entry[0];
        int32_t l = entry.layer;
        int stays = entry.version == f->version[l] && f->held[l] > 0.0 && f->counted[l];
        if (stays && f->exempt[l] <= now) {
            double going = f->held[l] < f->total - allowed ? f->held[l] : f->total - allowed;
            f->held[l] -= going;
            f->total -= going;
            stays = f->held[l] > 0.0;
        } else if (stays) {
            entry.time = f->exempt[l];
            heap_push(&f->waiting, entry);
            stays = 0;
        }
        if (!stays) heap_pop(&f->heap);
    }
    f->too_much = f->total > allowed;
}

/* The next tick at which something may have to go. */
static int64_t next_tick(const needs_t *needs, const fractions_t *f, int64_t tick, int32_t state, int64_t needed) {
    if (f->too_much || needed <= tick + 1) return tick + 1;
    while (state < needs->states && needs->disk_time[state] <= (double)tick * needs->interval) state++;
    double next = (double)(needs->ticks > tick ? needs->ticks : tick + 1);
    if ((double)needed < next) next = (double)needed;
    if (state < needs->states) {
        double changed = ceil(needs->disk_time[state] / needs->interval);
        if (changed < next) next = changed;
    }
    return next > (double)(tick + 1) ? (int64_t)next : tick + 1;
}

/* The bytes that have to be pulled again. */
int kernel_bound(const needs_t *needs, double *repulled) {
    size_t m = (size_t)needs->layers + 1, room = ((size_t)needs->count + 1) * sizeof(pending_t);
    fractions_t f = {.held = calloc(m, sizeof(double)), .exempt = malloc(m * sizeof(double))};
    f.doubtful = malloc(m * sizeof *f.doubtful), f.version = calloc(m, sizeof *f.version), f.counted = malloc(m);
    f.heap.entry = malloc(room), f.waiting.entry = malloc(room);
    int status = NO_MEMORY;
    if (f.held && f.exempt && f.doubtful && f.version && f.counted && f.heap.entry && f.waiting.entry) {
        for (int32_t l = 0; l < needs->layers; l++) f.exempt[l] = f.doubtful[l] = -INFINITY, f.counted[l] = 1;
        int64_t tick = 0, k = 0;
        int32_t state = 0;
        while (tick < needs->ticks || k < needs->count) {
            tick = next_tick(needs, &f, tick, state, k < needs->count ? needs->tick[k] : needs->ticks);
            while (k < needs->count && needs->tick[k] <= tick) need_layer(needs, &f, k++);
            if (tick > needs->ticks) break;
            double now = (double)tick * needs->interval;
            while (state + 1 < needs->states && needs->disk_time[state + 1] <= now) state++;
            drop_bytes(needs, &f, now, needs->allowed[state]);
        }
        *repulled = f.repulled;
        status = OK;
    }
    free(f.held), free(f.exempt), free(f.doubtful), free(f.version), free(f.counted);
    free(f.heap.entry), free(f.waiting.entry);
    return status;
}
