/* Ranking by an order other than lru. */

/* Know what was known at an earlier moment, unless more is known already. */
static void go_on_from(run_t *run, const moment_t *moment) {
    if (!moment || moment->position <= run->scanned || moment->position > run->position) return;
    size_t n = (size_t)run->trace->images;
    memcpy(run->last_use, moment->last_use, n * sizeof *run->last_use);
    memcpy(run->latest, moment->latest, n * sizeof *run->latest);
    run->scanned = moment->position;
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

/* Let the recent uses of repositories be those before a midnight. */
static void turn_recent(today_t *today, const learned_t *learned, int64_t day) {
    int64_t from = today->day < day ? today->day + 1 : 0;
    if (!from) memset(today->recent, 0, (size_t)learned->repositories);
    for (int64_t k = learned->turned[from]; k < learned->turned[day + 1]; k++)
        today->recent[learned->changed[k]] = learned->bin[k];
}

/* Let rates and what lies beyond each age be those of a day. */
static void turn_to(today_t *today, const learned_t *learned, int64_t day) {
    if (today->day == day) return;
    if (today->recent) turn_recent(today, learned, day);
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
            expected[stage] = shrunk(of_stage[0][stage], of_stage[1][stage], all * learned->by_stage[age * STAGES + stage],
                                     learned->trust[1]);
        for (int c = 0; c < HABITS * STAGES; c++)
            today->rate[age][c] = shrunk(returns[c], exposure[c],
                                         expected[c % STAGES] * learned->by_habit[age * HABITS * STAGES + c], learned->trust[2]);
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

/* The bin of recent uses of an image's repository; of several the highest. */
static inline int recent_of(const today_t *today, const learned_t *learned, int32_t i) {
    int most = 0;
    for (int32_t k = learned->first[i]; k < learned->first[i + 1]; k++)
        if (today->recent[learned->repository[k]] > most) most = today->recent[learned->repository[k]];
    return most;
}

static inline double forecast(const today_t *today, double idle, int usage, double superseded_for, const uint16_t *by_use,
                              int recent) {
    int age = bin_of(idle, LOWEST_BIN, AGES), stage = stage_of(superseded_for), c = usage / TIMES * STAGES + stage;
    double left = age < AGES - 1 ? (double)(1 << (age + LOWEST_BIN)) - idle : INFINITY;
    double found = chance(today->rate[age][c], left > 0.0 ? left : 0.0, today->beyond[age + 1][c]);
    int bin = 0; /* by halves, for CHANCES is a power of two less one */
    for (int half = (CHANCES + 1) / 2; half; half /= 2) bin += found >= LEAST_CHANCE[bin + half - 1] ? half : 0;
    return found * by_use[((bin * STAGES + stage) * TIMES + usage % TIMES) * TIMES + recent] / 1000.0;
}

/* Keys of images, at a moment up to which all is known. */
static int find_keys(run_t *run, int32_t count) {
    const learned_t *learned = run->policy->by.moments->learned;
    double now = run->now;
    if (!learned) return run->policy->by.moments->ask(now, count, run->present, run->keys) ? CALLBACK : OK;
    turn_to(run->today, learned, (llrint(now * 1000.0) + learned->offset) / DAY_MS);
    for (int32_t k = 0; k < count; k++) {
        int32_t i = run->present[k];
        double idle = run->last_use[i] < now ? now - run->last_use[i] : 0.0;
        run->keys[k] = forecast(run->today, idle, learned->usage[run->latest[i]], now - learned->superseded[i],
                                learned->by_use, recent_of(run->today, learned, i));
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

/* Whether an image may be there now under any policy that is replayed together with this one. */
static inline int concerns_any(const run_t *run, int32_t i) {
    const moments_t *all = run->policy->by.moments;
    return all->wanted[i] || run->latest[i] >= all->from;
}

/* Rank images as they stand now: those that may be there under any policy, or those that are for this one. */
static int fill_moment(run_t *run, moment_t *moment, int shared) {
    const trace_t *t = run->trace;
    size_t n = (size_t)t->images;
    go_on_from(run, run->seen ? run->seen : run->policy->by.moments->reached);
    scan(run);
    moment->now = run->now, moment->position = run->position;
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
        if (run->latest[i] >= 0 && (run->held[i] || (shared && concerns_any(run, i)))) run->present[count++] = i;
    int status = find_keys(run, count);
    memcpy(run->last_use, moment->last_use, n * sizeof *run->last_use);
    memcpy(run->latest, moment->latest, n * sizeof *run->latest);
    rank(run, count, moment->ranked);
    moment->count = count;
    return status;
}

/* The present moment for this replay alone; NULL: failed. */
static const moment_t *own_moment(run_t *run) {
    if (!run->own && !(run->own = make_moment(run->trace->images))) {
        run->status = NO_MEMORY;
        return NULL;
    }
    run->status = fill_moment(run, run->own, 0);
    return run->status == OK ? run->own : NULL;
}

/* The present moment, from another replay if one was here before; NULL: failed. */
static const moment_t *moment_of(run_t *run) {
    moments_t *all = run->policy->by.moments;
    if (!all->together) return own_moment(run);
    uint64_t bits;
    memcpy(&bits, &run->now, sizeof bits);
    size_t at = (size_t)mixed(bits ^ mixed((uint64_t)run->position)) & (all->slots - 1);
    for (moment_t *found; (found = all->slot[at]); at = (at + 1) & (all->slots - 1))
        if (found->now == run->now && found->position == run->position) return run->seen = found;
    if (all->room < all->size) return own_moment(run);
    moment_t *made = all->spare;
    if (made) {
        all->spare = made->next;
    } else if (!(made = make_moment(run->trace->images))) {
        run->status = NO_MEMORY;
        return NULL;
    }
    run->status = fill_moment(run, made, 1);
    made->slot = at, made->next = all->kept;
    all->slot[at] = all->kept = made;
    all->room -= all->size;
    return run->status == OK ? run->seen = made : NULL;
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
    all->wanted = malloc((size_t)images + 1);
    if (!all->slot || !all->wanted) return free(all->slot), free(all->wanted), free(all), NULL;
    return all;
}

static void spare(moments_t *all, moment_t *moment) {
    if (!moment) return;
    moment->next = all->spare;
    all->spare = moment;
    all->room += all->size;
}

/* Forget all moments, which no replay may be at, but for what was known at the latest. */
static void pass(moments_t *all) {
    for (moment_t *next; all->kept; all->kept = next) {
        moment_t *moment = all->kept;
        next = moment->next;
        all->slot[moment->slot] = NULL;
        if (!all->reached || moment->position > all->reached->position) {
            spare(all, all->reached);
            all->reached = moment;
        } else {
            spare(all, moment);
        }
    }
}

/* Free them for good. */
void kernel_forget(moments_t *all) {
    pass(all);
    spare(all, all->reached);
    for (moment_t *next; all->spare; all->spare = next) next = all->spare->next, free(all->spare);
    free(all->slot), free(all->wanted), free(all);
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
    int64_t bytes = t->facts[i].own_bytes;
    for (int32_t k = t->facts[i].first; k < t->facts[i].end; k++)
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

/* As `gdsf` in pruner.policy.orders. */
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
        if (run->held[i]) {
            double last = run->last_use[i] < run->now ? run->last_use[i] : run->now;
            run->keys[count] = run->policy->chooser == BY_RANKED_LAST_USE ? last : run->pulled[i], run->present[count++] = i;
        }
    if (run->policy->chooser == BY_GDSF) find_gdsf(run, count);
    rank(run, count, run->ranked);
    *ordered = (ordered_t){count, run->ranked, run->last_use};
    run->asked_at = run->latest;
}

/* As `idle_since` in pruner.policy.local_images; time is observed from 0 on. */
static double quiet_since(const run_t *run) {
    const superseded_t *rule = run->policy->superseded;
    double reached = run->now, left = rule->idle;
    for (int32_t k = 0; k < rule->gaps; k++) {
        double observed = reached - rule->gap_end[k] > 0.0 ? reached - rule->gap_end[k] : 0.0;
        if (observed >= left) break;
        left -= observed;
        if (rule->gap_begin[k] < reached) reached = rule->gap_begin[k];
    }
    return reached - left < 0.0 ? -INFINITY : reached - left;
}

/* Whether a later local image of each of its repositories is there; `latest_of` is known. */
static int is_superseded(const run_t *run, int32_t i) {
    const superseded_t *rule = run->policy->superseded;
    for (int32_t k = rule->first[i]; k < rule->first[i + 1]; k++) {
        int32_t latest = run->latest_of[rule->repository[k]];
        if (latest < 0 || rule->sight[latest] <= rule->sight[i]) return 0;
    }
    return rule->first[i] < rule->first[i + 1];
}

/* Find which local images may go; whether any may. */
static int find_superseded(run_t *run, const ordered_t *ordered, double quiet) {
    const trace_t *t = run->trace;
    const superseded_t *rule = run->policy->superseded;
    int any = 0;
    for (int32_t r = 0; r < rule->repositories; r++) run->latest_of[r] = -1;
    for (int32_t i = 0; i < t->images; i++)
        if (run->held[i] && t->local[i])
            for (int32_t k = rule->borne_first[i]; k < rule->borne_first[i + 1]; k++)
                if (rule->borne_from[k] <= run->now && run->now < rule->borne_until[k]) run->latest_of[rule->borne[k]] = i;
    for (int32_t i = 0; i < t->images; i++) {
        run->may_go[i] = run->held[i] && t->local[i] && ordered->last_use[i] <= quiet && is_superseded(run, i);
        any |= run->may_go[i];
    }
    return any;
}

/* Where an image's turn comes, if local ones may go. */
static inline int turn_of(const run_t *run, const ordered_t *ordered, int32_t i, double quiet) {
    return run->trace->local[i] ? 1 : ordered->last_use[i] <= quiet ? 0 : 2;
}

/* Put local images at their turn, the rest staying as it is. */
static void put_local_in_turn(run_t *run, ordered_t *ordered) {
    double quiet = quiet_since(run);
    if (!find_superseded(run, ordered, quiet)) return;
    int32_t count = 0;
    for (int turn = 0; turn < 3; turn++)
        for (int32_t k = 0; k < ordered->count; k++)
            if (turn_of(run, ordered, ordered->ranked[k], quiet) == turn) run->present[count++] = ordered->ranked[k];
    ordered->ranked = run->present;
}

/* Put what jobs in flight may need by a guess last, the rest staying as it is. */
static void put_guessed_last(run_t *run, const decision_t *d, ordered_t *ordered) {
    int32_t count = 0;
    for (int rank = 0; rank <= GUESS_RANKS; rank++)
        for (int32_t k = 0; k < ordered->count; k++)
            if (guessed(run, d, ordered->ranked[k]) == rank) run->candidate[count++].image = ordered->ranked[k];
    for (int32_t k = 0; k < count; k++) run->present[k] = run->candidate[k].image;
    ordered->ranked = run->present;
}

static inline int shielded(const run_t *run, const decision_t *d, const ordered_t *ordered, int32_t i) {
    const policy_t *p = run->policy;
    return ordered->last_use[i] > d->limit ||
           (p->keep_local && run->trace->local[i] && !(p->superseded && run->may_go[i]));
}

/* When the first of the images that are there will be old enough. */
static double earliest(const run_t *run, const ordered_t *ordered) {
    double least = INFINITY;
    for (int32_t i = 0; i < run->trace->images; i++)
        if (run->held[i] && !(run->policy->keep_local && run->trace->local[i]) && ordered->last_use[i] < least)
            least = ordered->last_use[i];
    least += run->policy->min_age;
    const superseded_t *rule = run->policy->superseded;
    for (int32_t i = 0; i < run->trace->images && rule; i++)
        if (run->held[i] && run->trace->local[i] && is_superseded(run, i) && ordered->last_use[i] + rule->idle < least)
            least = ordered->last_use[i] + rule->idle;
    return least - 0.001;
}

/* Any other order. */
static void decide_ordered(run_t *run) {
    decision_t d;
    ordered_t ordered = {0};
    begin_decision(run, &d);
    run->wake = -INFINITY;
    if (d.floor > d.limit) return;
    if (run->policy->chooser == BY_MOMENTS)
        order_all(run, &ordered);
    else
        order_present(run, &ordered);
    if (run->status != OK) return;
    if (run->policy->superseded) put_local_in_turn(run, &ordered);
    if (d.guessing) put_guessed_last(run, &d, &ordered);
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
