/* What a host learned. */

#define DAY_MS INT64_C(86400000)
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

/* The bin of a use count. */
static inline int times_of(int32_t uses) {
    int times = 0;
    for (; uses && times < TIMES - 1; uses >>= 1) times++;
    return times;
}

/* Habit and use count in one number. */
static inline uint8_t usage_of(int habit, int32_t uses) { return (uint8_t)(habit * TIMES + times_of(uses)); }

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
typedef struct learning {
    struct learning *rest; /* of other images; all is the sum of both */
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
    if (made) kernel_unlearn(made->rest), free(made->first), free(made->change), free(made->known);
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

/* When each image was first needed, which is left as it is for one that never was. */
void kernel_first_demands(int32_t images, int32_t uses, const double *time, const int32_t *image, const uint8_t *kind,
                          double *first) {
    int32_t missing = images;
    for (int32_t p = 0; p < uses && missing; p++)
        if (kind[p] >= CONTAINER && kind[p] <= JOB && first[image[p]] == INFINITY) first[image[p]] = time[p], missing--;
}

/* How often each repository was used by containers and jobs on each day (from the origin's midnight on) that it was.
 *
 * first, repository: those of image i are repository[first[i]] to repository[first[i + 1] - 1].
 * latest: per repository where its latest day stands, -1 at first.
 * of, day, count: written, in order of time of a day's first use. Returns how many there are.
 */
int64_t kernel_daily_uses(int32_t uses, const double *time, const int32_t *image, const uint8_t *kind, int64_t offset,
                          const int32_t *first, const int32_t *repository, int64_t *latest, int32_t *of, int64_t *day,
                          int64_t *count) {
    int64_t today = INT64_MIN, found = 0;
    double over = -INFINITY; /* until when it is certain that a use is of today, milliseconds */
    for (int32_t p = 0; p < uses; p++) {
        if (kind[p] != CONTAINER && kind[p] != JOB) continue;
        double at = time[p] * 1000.0 + (double)offset;
        if (at >= over) today = (int64_t)floor(at / (double)DAY_MS), over = (double)((today + 1) * DAY_MS);
        for (int32_t k = first[image[p]]; k < first[image[p] + 1]; k++) {
            int32_t r = repository[k];
            if (latest[r] < 0 || day[latest[r]] != today)
                of[found] = r, day[found] = today, count[found] = 0, latest[r] = found++;
            count[latest[r]]++;
        }
    }
    return found;
}

/* Learn from a trace up to each of `days` midnights, the first at or before the origin; NULL: failed.
 *
 * part: only of images with that remainder by `parts`, a power of two.
 * superseded: per image since when it has been; view: BY_HABIT or BY_COUNT.
 * following: per use the next use of the same image, or NOWHERE.
 * usage: written: per use the image's habit and use count from then on, see usage_of.
 */
learning_t *kernel_learn(int32_t images, int32_t uses, const double *time, const int32_t *image, const double *until,
                         const uint8_t *kind, const int32_t *following, const double *superseded, double end,
                         int64_t offset, int32_t days, int view, int32_t part, int32_t parts, uint8_t *usage) {
    past_t *pasts = calloc((size_t)images + 1, sizeof *pasts);
    pass_t pass;
    int status = make_pass(&pass, days, offset, view);
    double midnight = -INFINITY; /* the first that is still to come */
    for (int32_t p = 0; p < uses && pasts && status == OK; p++) {
        if ((image[p] & (parts - 1)) != part) continue;
        if (time[p] > midnight) {
            int64_t passed = (llrint(time[p] * 1000.0) + offset + DAY_MS - 1) / DAY_MS;
            close_days(&pass, passed);
            midnight = (double)(passed * DAY_MS - offset - 1) / 1000.0;
            status = pass.status;
        }
        past_t *past = &pasts[image[p]];
        int demands = kind[p] >= CONTAINER && kind[p] <= JOB;
        if (past->known) {
            /* What an inventory found has an end before it was seen: nobody observed that idle time. */
            double idle = time[p] - past->end;
            if (demands && past->end >= past->time && idle > SESSION) note_gap(past, idle);
        }
        if (!past->known || until[p] > past->end) past->end = until[p];
        past->known = 1;
        past->time = time[p];
        past->uses += kind[p] == CONTAINER || kind[p] == JOB;
        usage[p] = usage_of(past->habit, past->uses);
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

/* Let what was learned of some images count with what was of others. */
void kernel_join(learning_t *made, learning_t *more) { more->rest = made->rest, made->rest = more; }

/* Go on from what was known at midnight `from` (-1: nothing) to what was at `day`: returns, then exposure. */
void kernel_day(const learning_t *made, int64_t from, int64_t day, int64_t *now) {
    int64_t width = made->situations, known = day / KNOWN_DAYS * KNOWN_DAYS;
    int restarted = from < known || from > day;
    if (restarted) memset(now, 0, 2 * (size_t)width * sizeof *now), from = known;
    for (; made; made = made->rest) {
        const int64_t *so_far = made->known + known / KNOWN_DAYS * 2 * width;
        for (int64_t c = 0; restarted && c < 2 * width; c++) now[c] += so_far[c];
        for (int64_t k = made->first[from + 1]; k < made->first[day + 1]; k++) {
            const change_t *change = &made->change[k];
            now[change->situation] += change->returns;
            now[width + change->situation] += change->exposure;
        }
    }
}
