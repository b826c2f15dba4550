/* The replay. */

/* Prefetch what is needed for a use soon: uses that bring something in lie far from each other. */
static inline void fetch(const trace_t *t, int32_t use) {
    if (use >= t->uses) return;
    PREFETCH(&t->time[use]);
    PREFETCH(&t->kind[use]);
    PREFETCH(&t->image[use]);
}

/* A use of an image that is not there. */
static void bring(run_t *run, int32_t use) {
    const trace_t *t = run->trace;
    int32_t i = t->image[use];
    uint8_t kind = t->kind[use];
    int demands = kind >= CONTAINER && kind <= JOB, first = !run->known[i], pulls = demands && !t->facts[i].local;
    if (kind == ARRIVED || (kind == FOUND && first) || pulls || (demands && first)) {
        int64_t beside = pulls && t->space ? space_beside(run, i) : 0, missing = hold(run, i, beside);
        if (beside) look_at(run, run->free - beside);
        look(run);
        if (pulls) {
            if (first)
                run->out->compulsory++, run->out->compulsory_bytes += missing;
            else
                run->out->repulls++, run->out->repulled_bytes += missing;
        }
        if (run->policy->at_events) hear(run, pulls ? missing : 0);
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
    if (run->policy->chooser != BY_AGE && !run->policy->headroom) {
        if (!under_threshold(run)) return INFINITY;
        double earliest = run->now > run->wake ? run->now : run->wake;
        if (earliest > (double)ticks * interval) return INFINITY;
        if (earliest > (double)k * interval) {
            int64_t due = (int64_t)(earliest / interval);
            due = due > 0 ? due - 1 : 0;
            while ((double)due * interval < earliest) due++;
            if (due > k) k = due;
        }
    }
    run->due = k;
    return k <= ticks ? (double)k * interval : INFINITY;
}

/* The timer has fired up to now, also where nothing could be done. */
static void pass_ticks(run_t *run) {
    double interval = run->policy->interval;
    int64_t passed = (int64_t)(run->now / interval);
    while ((double)passed * interval > run->now) passed--;
    while ((double)(passed + 1) * interval <= run->now) passed++;
    if (passed > run->last_tick) run->last_tick = passed;
}
