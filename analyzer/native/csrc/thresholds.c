/* Levels of free space, and when to look. */

/* As Python's `a // b`, of a positive b. */
static double quotient_of(double a, double b) {
    double rest = fmod(a, b), quotient = (a - rest) / b;
    if (rest < 0) quotient -= 1.0;
    double whole = floor(quotient);
    return quotient - whole > 0.5 ? whole + 1.0 : whole;
}

/* As Python's `now // interval * interval`. */
static double begin_of(double now, double interval) { return quotient_of(now, interval) * interval; }

/* What was free at most within reach, up to now; what was free before now is known from then on. */
static double highest_within(run_t *run, double reach) {
    falls_t *falls = &run->falls;
    past_free_t *past = falls->past + falls->past_first;
    while (falls->past_count && past[falls->past_count - 1].free <= falls->before) falls->past_count--;
    while (falls->past_count && past->until < run->now - reach) falls->past_first++, falls->past_count--, past++;
    if (falls->past_first + falls->past_count == falls->past_room) {
        memmove(falls->past, past, (size_t)falls->past_count * sizeof *past);
        falls->past_first = 0;
        if (2 * falls->past_count >= falls->past_room) {
            int64_t room = falls->past_room ? 2 * falls->past_room : 64;
            if (grow((void **)&falls->past, room, sizeof *falls->past)) return run->status = NO_MEMORY, 0.0;
            falls->past_room = room;
        }
        past = falls->past;
    }
    past[falls->past_count++] = (past_free_t){run->now, falls->before};
    return past->free;
}

/* See what is free. */
static void look_at(run_t *run, int64_t bytes) {
    const headroom_t *headroom = run->policy->headroom;
    if (!headroom) return;
    falls_t *falls = &run->falls;
    double free = (double)bytes, interval = run->policy->interval, fall = 0.0;
    if (falls->before > -INFINITY) {
        fall = highest_within(run, headroom->reach) - free;
        if (fall > falls->deepest) falls->deepest = fall;
    }
    if (run->now >= falls->began + interval) {
        if (falls->before > -INFINITY) add_fall(falls, headroom->kept, falls->deepest);
        falls->began = begin_of(run->now, interval);
        falls->deepest = 0.0;
    }
    falls->before = free;
}

static void look(run_t *run) { look_at(run, run->free); }

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
    while (falls->set + 1 < headroom->sets && headroom->set_from[falls->set + 1] <= run->now) falls->set++;
    double spare = (double)(run->free + run->held_bytes) - headroom->set_bytes[falls->set];
    if (spare >= 0.0) {
        if (spare < headroom->least * total) spare = headroom->least * total;
        if (threshold > spare) threshold = spare;
    }
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
    if (is_ranked(run->policy))
        decide_ordered(run);
    else
        decide_lru(run);
    look(run);
}

/* Something has taken space: let a prune begin, if that left too little, once what arrives is here and a sample shows it. */
static RARE void hear(run_t *run, int64_t arriving) {
    const policy_t *policy = run->policy;
    resolve(run);
    if (run->status != OK) return;
    if (!under_threshold(run)) {
        run->pause = policy->first_pause, run->quiet_until = -INFINITY;
        return;
    }
    double sample = run->now + (double)arriving / policy->pull_rate;
    double at = (sample > run->quiet_until ? sample : run->quiet_until) + policy->latency;
    if (at < run->prune_at) run->prune_at = at;
}

/* A prune that an event started does its work. */
static RARE void prune_early(run_t *run) {
    const policy_t *policy = run->policy;
    run->prune_at = INFINITY;
    decide(run);
    if (!under_threshold(run)) {
        run->pause = policy->first_pause, run->quiet_until = -INFINITY;
        return;
    }
    run->quiet_until = run->now - policy->latency + run->pause;
    run->pause = 2 * run->pause < policy->last_pause ? 2 * run->pause : policy->last_pause;
}
