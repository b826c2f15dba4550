/* The bound of analyzer.simulation.bounds. */

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
