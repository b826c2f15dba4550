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
