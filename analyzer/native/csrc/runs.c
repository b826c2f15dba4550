/* Runs: what analyzer.kernel.index calls. */

/* Go on to a time, with all that happens then. */
static void play(run_t *run, double until) {
    const trace_t *t = run->trace;
    int64_t ticks = run->policy->interval > 0 ? (int64_t)(t->trace_end / run->policy->interval) : 0;
    int32_t disk = run->disk;
    const int at_events = run->policy->at_events;
    double tick = tick_time(run, ticks);
    while (run->status == OK) {
        double use_time = run->upcoming < t->uses ? t->time[run->upcoming] : INFINITY;
        double disk_time = disk < t->disks ? t->disk_time[disk] : INFINITY;
        double next = use_time < tick ? use_time : tick;
        double early = at_events && run->prune_at <= t->trace_end ? run->prune_at : INFINITY;
        if (disk_time > until && next > until && early > until) break;
        if (early < next && early < disk_time) {
            run->now = early;
            advance(run);
            prune_early(run);
            pass_ticks(run);
        } else if (disk_time <= next) {
            if (disk_time == INFINITY) break;
            run->now = disk_time;
            change_disk(run, disk);
            look(run);
            disk++;
            if (at_events) hear(run, 0);
        } else if (use_time <= tick) {
            int32_t use = run->upcoming;
            run->now = use_time;
            run->position = use + 1;
            bits_clear(&run->coming, use);
            run->upcoming = bits_next(&run->coming, use + 1);
            fetch(t, run->upcoming);
            bring(run, use);
            if (run->upcoming < t->uses) PREFETCH(&t->facts[t->image[run->upcoming]]);
        } else {
            run->now = tick;
            run->last_tick = run->due;
            advance(run);
            if (run->policy->chooser == BY_AGE)
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
    free(run->held), free(run->known), free(run->holders), free(run->pulled), free(run->taken), free(run->guessed_until);
    free(run->passed), free(run->kept), free(run->last_use), free(run->latest), free(run->uses), free(run->present), free(run->keys);
    free(run->ranked), free(run->candidate), free(run->own);
    if (run->today) free(run->today->recent);
    free(run->today);
    free(run->latest_of), free(run->may_go);
    free(run->falls.number), free(run->falls.fall), free(run->falls.past);
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
    run->pulled = malloc(n * sizeof *run->pulled);
    run->keys = malloc(n * sizeof *run->keys);
    run->ranked = malloc(n * sizeof *run->ranked);
    run->candidate = malloc(2 * n * sizeof *run->candidate);
    run->today = calloc(1, sizeof *run->today);
    if (!run->last_use || !run->latest || !run->uses || !run->present || !run->pulled || !run->keys || !run->ranked || !run->candidate || !run->today)
        return NO_MEMORY;
    for (size_t i = 0; i < n; i++) run->last_use[i] = run->pulled[i] = -INFINITY, run->latest[i] = -1;
    run->spare = run->candidate + n;
    run->today->day = -1;
    const policy_t *policy = run->policy;
    if (policy->chooser == BY_MOMENTS && policy->by.moments->learned) {
        run->today->recent = malloc((size_t)policy->by.moments->learned->repositories + 1);
        if (!run->today->recent) return NO_MEMORY;
    }
    return OK;
}

static int make_run(run_t *run) {
    const trace_t *trace = run->trace;
    const policy_t *policy = run->policy;
    size_t n = (size_t)trace->images + 1;
    run->held = calloc(n, 1);
    run->known = calloc(n, 1);
    run->holders = calloc((size_t)trace->groups + 1, sizeof *run->holders);
    run->taken = malloc(2 * n * sizeof *run->taken);
    run->guessed_until = malloc(GUESS_RANKS * n * sizeof *run->guessed_until);
    if (!run->held || !run->known || !run->holders || !run->taken || !run->guessed_until || room_for(run, 64)) return NO_MEMORY;
    if (bits_make(&run->coming, trace->uses) != OK) return NO_MEMORY;
    if (policy->chooser != BY_LAST_USE && make_ordered(run) != OK) return NO_MEMORY;
    if (policy->superseded) {
        run->latest_of = malloc(((size_t)policy->superseded->repositories + 1) * sizeof *run->latest_of);
        run->may_go = calloc(n, 1);
        if (!run->latest_of || !run->may_go) return NO_MEMORY;
    }
    if (policy->chooser == BY_TOOL && make_tools(run) != OK) return NO_MEMORY;
    if (policy->headroom) {
        run->falls.number = malloc((size_t)policy->headroom->kept * sizeof *run->falls.number);
        run->falls.fall = malloc((size_t)policy->headroom->kept * sizeof *run->falls.fall);
        if (!run->falls.number || !run->falls.fall) return NO_MEMORY;
    }
    for (int32_t i = 0; i < trace->images; i++) {
        for (int k = 0; k < GUESS_RANKS; k++) run->guessed_until[GUESS_RANKS * i + k] = -INFINITY;
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
    run->wake = run->blind_end = run->guessing_until = -INFINITY;
    run->falls.before = -INFINITY, run->falls.disk_class = -1;
    run->prune_at = INFINITY, run->quiet_until = -INFINITY, run->pause = policy->first_pause;
    run->status = make_run(run);
    if (run->status == OK) return run;
    kernel_end(run);
    return NULL;
}

/* Forget all moments, and let these replays, which share moments, go on from a time together: an image that none of them holds
 * then concerns none before it is used again. */
static void turn(moments_t *all, int32_t count, run_t *const *runs, double time) {
    const trace_t *t = runs[0]->trace;
    pass(all);
    all->together = 1;
    memset(all->wanted, 0, (size_t)t->images);
    for (int32_t k = 0; k < count; k++) {
        runs[k]->seen = NULL;
        for (int32_t i = 0; i < t->images; i++) all->wanted[i] |= runs[k]->held[i];
    }
    run_t here = {.trace = t, .now = time};
    advance(&here);
    all->from = here.position;
}

/* Let replays go on to a time. */
void kernel_play(int32_t count, run_t *const *runs, double until) {
    for (int32_t k = 0; k < count; k++) {
        if (runs[k]->policy->chooser == BY_TOOL)
            play_tool(runs[k], until);
        else
            play(runs[k], until);
    }
}

/* Let replays that share moments go on by slices of time, of so many that there are up to the end, from one to before another. */
void kernel_play_slices(moments_t *all, int32_t count, run_t *const *runs, double end, int32_t first, int32_t last, int32_t slices) {
    for (int32_t k = first; k < last; k++) {
        turn(all, count, runs, k ? end * k / slices : -INFINITY);
        kernel_play(count, runs, k == slices - 1 ? INFINITY : end * (k + 1) / slices);
    }
}

/* Free what a result holds. */
void kernel_release(result_t *out) {
    free(out->removal_time), free(out->removal_image), free(out->removal_bytes), free(out->removal_emergency);
    free(out->step_time), free(out->step_free);
    memset(out, 0, sizeof *out);
}
