/* The host. */

typedef struct {
    int32_t period, image; /* period: -1 where an order other than lru decides */
    int64_t bytes;
    double inodes;
    uint8_t emergency, back;
} taken_t;

/* What was free until a time. */
typedef struct {
    double until, free;
} past_free_t;

/* How far free space fell in each interval, as far as a later one was not as deep: the deepest is the first. */
typedef struct {
    double began, before, deepest;  /* before: what was free since the latest look; negative infinity: none yet */
    past_free_t *past;              /* the highest within reach first, then only what was lower and later */
    int64_t past_first, past_count, past_room;
    int64_t set; /* which working set is known */
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
    uint8_t *recent; /* per repository the bin of its recent uses; NULL: nobody asks */
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
    double *pulled; /* NULL where only the last use counts */
    bits_t coming;
    int32_t upcoming; /* the next use that brings in */
    int64_t cursor;   /* periods before this one are over or on the list of those passed by */
    int32_t *passed, *kept;
    int32_t passed_count, passed_room;
    taken_t *taken;
    int32_t taken_count;
    double blind_end;
    int32_t gap;
    int32_t guess;         /* guesses before this one have begun */
    double *guessed_until; /* per image and rank */
    double guessing_until; /* whether any holds */
    int32_t age; /* which minimum age holds */
    double prune_at, quiet_until, pause; /* where events start a prune: when the next one has done its work */
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
    int32_t *latest_of; /* per repository its latest local image that is there */
    uint8_t *may_go;    /* per image whether it is local and may go all the same */
    today_t *today;
    moment_t *own;           /* a moment that is not kept for others */
    const moment_t *seen;    /* the latest of those that are */
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

static inline void note_free(run_t *run, int64_t free) {
    result_t *out = run->out;
    if ((double)free < out->min_free) out->min_free = (double)free;
    if (!run->policy->keep_steps) return;
    if (out->kept_steps && out->step_free[out->kept_steps - 1] == free) return;
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
    out->step_free[out->kept_steps++] = free;
}

static inline void note(run_t *run) { note_free(run, run->free); }

/* What else a pull of an image takes until it has ended. */
static inline int64_t space_beside(const run_t *run, int32_t i) {
    const trace_t *t = run->trace;
    int64_t most = t->own_space[i];
    for (int32_t k = t->facts[i].first; k < t->facts[i].end; k++)
        if (run->holders[t->group[k]] == 0 && t->space[k] > most) most = t->space[k];
    return most;
}

/* Make an image be there; the bytes of its layers that were missing. beside: what else its pull takes. */
static inline int64_t hold(run_t *run, int32_t i, int64_t beside) {
    const trace_t *t = run->trace;
    account(run);
    int64_t missing = t->facts[i].own_bytes;
    double inodes = t->facts[i].own_inodes;
    for (int32_t k = t->facts[i].first; k < t->facts[i].end; k++) {
        int32_t g = t->group[k];
        if (run->holders[g]++ == 0) missing += t->group_bytes[g], inodes += t->group_inodes[g];
    }
    run->held[i] = run->known[i] = 1;
    if (run->pulled) run->pulled[i] = run->now;
    if (is_ranked(run->policy)) run->wake = -INFINITY; /* it may be old */
    run->held_bytes += missing;
    run->held_inodes += inodes;
    run->free -= missing;
    run->out->disk_full += missing > 0 && run->free - beside < 0;
    if (beside) note_free(run, run->free - beside);
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
    int went = t->facts[i].has_own;
    *bytes = t->facts[i].own_bytes;
    *inodes = t->facts[i].own_inodes;
    for (int32_t k = t->facts[i].first; k < t->facts[i].end; k++) {
        int32_t g = t->group[k];
        if (--run->holders[g] == 0) *bytes += t->group_bytes[g], *inodes += t->group_inodes[g], went = 1;
    }
    return went;
}

/* Whether any layer of a taken image is held by none that stays. */
static inline int frees_something(const run_t *run, int32_t i) {
    const trace_t *t = run->trace;
    if (t->facts[i].has_own) return 1;
    for (int32_t k = t->facts[i].first; k < t->facts[i].end; k++)
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
