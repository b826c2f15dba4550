/* The decision. */

typedef struct {
    double limit; /* used later: too young, or a container lives */
    double floor; /* a gap may have hidden a use until then */
    double idle_since;
    double bytes, inodes;
    const double *goal;
    int guessing; /* whether anything is guessed to be needed by jobs in flight */
} decision_t;

/* Let guesses hold that have begun; whether any holds now. */
static int begin_guesses(run_t *run) {
    const trace_t *t = run->trace;
    for (; run->guess < t->guesses && t->guess_begin[run->guess] <= run->now; run->guess++) {
        double end = t->guess_end[run->guess];
        double *until = &run->guessed_until[GUESS_RANKS * t->guess_image[run->guess] + t->guess_rank[run->guess] - 1];
        if (end > *until) *until = end;
        if (end > run->guessing_until) run->guessing_until = end;
    }
    return run->guessing_until > run->now;
}

/* How likely a job in flight needs an image, by a guess; 0: nothing speaks for it. */
static inline int guessed(const run_t *run, const decision_t *d, int32_t i) {
    int rank = d->guessing ? GUESS_RANKS : 0;
    while (rank && run->guessed_until[GUESS_RANKS * i + rank - 1] <= run->now) rank--;
    return rank;
}

static void begin_decision(run_t *run, decision_t *d) {
    const trace_t *t = run->trace;
    const policy_t *p = run->policy;
    while (run->gap < t->gaps && t->gap_begin[run->gap] <= run->now) {
        if (t->gap_end[run->gap] > run->blind_end) run->blind_end = t->gap_end[run->gap];
        run->gap++;
    }
    while (run->age + 1 < p->ages && p->age_from[run->age + 1] <= run->now) run->age++;
    double min_age = p->age[run->age];
    double blind = run->blind_end < run->now ? run->blind_end : run->now;
    double grace = min_age < p->gap_grace ? min_age : p->gap_grace;
    d->floor = run->gap ? blind + grace - min_age : -INFINITY;
    d->limit = run->now - min_age;
    d->idle_since = run->now - p->allowlist_idle;
    d->bytes = (double)run->free;
    d->inodes = free_inodes(run);
    d->guessing = begin_guesses(run);
    run->taken_count = 0;
}

static inline int spared(const run_t *run, const decision_t *d, int32_t i, double last_use) {
    return run->policy->protected[i] && (last_use > d->floor ? last_use : d->floor) >= d->idle_since;
}

static inline void take(run_t *run, decision_t *d, int32_t period, int32_t i, int emergency) {
    taken_t *taken = &run->taken[run->taken_count++];
    taken->period = period;
    taken->image = i;
    taken->emergency = (uint8_t)emergency;
    taken->back = 0;
    if (period >= 0) bits_fetch(&run->coming, run->trace->next[period]);
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
        for (int32_t l = t->facts[i].first; l < t->facts[i].end; l++) run->holders[t->group[l]]++;
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
        for (int32_t l = t->facts[taken.image].first; l < t->facts[taken.image].end; l++) run->holders[t->group[l]]--;
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
        await(run, taken->period >= 0 ? t->next[taken->period] : t->following[run->asked_at[taken->image]]);
    }
    run->out->prunes += any > 0;
}

static inline void keep(run_t *run, int32_t *count, int64_t period) { run->kept[(*count)++] = (int32_t)period; }

static int room_for(run_t *run, int32_t wanted) {
    if (wanted <= run->passed_room) return OK;
    int32_t room = 2 * wanted;
    if (grow((void **)&run->passed, room, sizeof *run->passed) || grow((void **)&run->kept, room, sizeof *run->kept))
        return NO_MEMORY;
    run->passed_room = room;
    return OK;
}

/* Take, of the periods that were kept, those of images that are guessed to be needed by this rank, spared or not. */
static int32_t take_kept(run_t *run, decision_t *d, int32_t kept, int rank, int emergency) {
    const trace_t *t = run->trace;
    int32_t rest = 0;
    for (int32_t k = 0; k < kept; k++) {
        int32_t q = run->kept[k], i = t->period_image[q];
        if (t->at[q] < run->position && t->end[q] <= d->limit && run->held[i] && spared(run, d, i, t->end[q]) == emergency &&
            guessed(run, d, i) == rank && !reaches(d->bytes, d->inodes, d->goal))
            take(run, d, q, i, emergency);
        else
            run->kept[rest++] = q;
    }
    return rest;
}

/* The first period from one on that has not ended with another use by now. Nearly all have: they are passed by in blocks. */
static inline int64_t lasting(const trace_t *t, int64_t s, int32_t position) {
    for (; s + 8 <= t->periods; s += 8) {
        const int32_t *next = t->next + s;
        /* Negative where none lasts: numbers of uses are not, so no difference overflows. */
        int32_t ended = (next[0] - position) & (next[1] - position) & (next[2] - position) & (next[3] - position) &
                        (next[4] - position) & (next[5] - position) & (next[6] - position) & (next[7] - position);
        if (ended >= 0) break;
    }
    while (s < t->periods && t->next[s] < position) s++;
    return s;
}

/* Least recently used first: periods that were passed by, then on from the cursor. */
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
        int32_t s = run->passed[k], i = t->period_image[s];
        if (t->next[s] < position) continue;
        if (reached || t->at[s] >= position || t->end[s] > d.limit) {
            keep(run, &kept, s);
            continue;
        }
        if (!run->held[i] || (run->policy->keep_local && t->local[i])) continue;
        if (spared(run, &d, i, t->end[s]) || guessed(run, &d, i)) {
            keep(run, &kept, s);
        } else if (reaches(d.bytes, d.inodes, d.goal)) {
            reached = 1;
            keep(run, &kept, s);
        } else {
            take(run, &d, s, i, 0);
        }
    }
    int64_t s = run->cursor;
    for (; !reached && (s = lasting(t, s, position)) < t->periods; s++) {
        if (t->end[s] > d.limit) break;
        int32_t i = t->period_image[s];
        if (t->at[s] >= position) {
            /* not yet: a use at this very moment, or one whose end lies before its beginning */
        } else if (!run->held[i] || (run->policy->keep_local && t->local[i])) {
            continue;
        } else if (!spared(run, &d, i, t->end[s]) && !guessed(run, &d, i)) {
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
    for (int rank = 1; d.guessing && rank <= GUESS_RANKS; rank++) kept = take_kept(run, &d, kept, rank, 0);
    int32_t back = give_back(run);
    d.goal = run->levels + EMERGENCY;
    if (!reaches(d.bytes, d.inodes, d.goal)) {
        take_again(run);
        for (int rank = 0; rank <= (d.guessing ? GUESS_RANKS : 0); rank++) kept = take_kept(run, &d, kept, rank, 1);
        back = give_back(run);
    }
    if (back) {
        if (room_for(run, kept + back + 1)) {
            run->status = NO_MEMORY;
            return;
        }
        for (int32_t k = 0; k < run->taken_count; k++)
            if (run->taken[k].back) keep(run, &kept, run->taken[k].period);
        qsort(run->kept, (size_t)kept, sizeof *run->kept, by_number);
    }
    int32_t *swap = run->passed;
    run->passed = run->kept;
    run->kept = swap;
    run->passed_count = kept;
    if (!kept && run->taken_count == 0 && run->cursor < t->periods)
        run->wake = t->end[run->cursor] + run->policy->min_age - 0.001;
    else if (!kept && run->taken_count == 0)
        run->wake = INFINITY;
    carry_out(run);
}
