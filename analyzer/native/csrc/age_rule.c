/* What other tools do by age. */

static void apply_rule(run_t *run) {
    const trace_t *t = run->trace;
    const age_rule_t *rule = run->policy->by.rule;
    int64_t before = run->out->removals;
    if (rule->low >= 0.0 && !((double)run->free < rule->low * (double)run->total)) return;
    scan(run);
    const double *since = rule->clock == BUILT ? rule->built : rule->clock == PULLED ? run->pulled : run->last_use;
    for (int32_t i = 0; i < t->images; i++) {
        if (!run->held[i] || run->last_use[i] > run->now || !rule->removable[i]) continue;
        if (!(since[i] < run->now - rule->age)) continue;
        int64_t bytes;
        double inodes;
        account(run);
        release(run, i, &bytes, &inodes);
        removed(run, i, bytes, inodes, 0);
        await(run, t->following[run->latest[i]]);
    }
    run->out->prunes += run->out->removals > before;
}
