/* Other tools: see analyzer.baselines. */

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
    double restarts = run->policy->by.tool->restarts;
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
    const double *amount = run->policy->by.tool->amount, low = amount[0] * (double)run->total;
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
    const double *amount = run->policy->by.tool->amount, limit = amount[1] < 0 ? amount[0] : amount[1] * (double)run->total;
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
    const tool_t *tool = run->policy->by.tool;
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
    const tool_t *tool = run->policy->by.tool;
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
    const double *amount = run->policy->by.tool->amount;
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
        if (!run->held[due.image] || run->last_use[due.image] + run->policy->by.tool->amount[0] != due.first) continue;
        if (due.first > run->now) run->now = due.first;
        discard(run, due.image);
    }
}

/* amount: time to live, free bytes, period. */
static void sweep_marked(run_t *run) {
    tools_t *tools = run->tools;
    int full = (double)run->free <= run->policy->by.tool->amount[1];
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
    const double *amount = run->policy->by.tool->amount, period = amount[2];
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
    const tool_t *tool = run->policy->by.tool;
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
    const tool_t *tool = run->policy->by.tool;
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
    if (run->policy->by.tool->kind == NOMAD) wait_nomad(run, until);
    if (run->policy->by.tool->kind == TASKCLUSTER) wait_taskcluster(run, until);
    if (run->policy->by.tool->kind == ARVADOS) wait_arvados(run, until);
}

static void tool_ticks(run_t *run) {
    if (run->policy->by.tool->kind == STONE) tick_stone(run);
    if (run->policy->by.tool->kind == DRONE_GC) tick_drone_gc(run);
    if (run->policy->by.tool->kind == KUBELET) tick_kubelet(run);
    if (run->policy->by.tool->kind == ECS) tick_ecs(run);
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
