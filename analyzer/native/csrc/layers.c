/* Layers. */

static uint64_t mixed(uint64_t x) { /* splitmix64 */
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

typedef struct {
    uint64_t one, two; /* sums over the images that hold the layer: the same for the same images */
    int32_t holders, image, number;
} layer_t;

/* Facts of an image stand side by side, so that a miss in the cache brings all of them. */
typedef struct {
    /* Layers that the same images hold are one group; what one image alone holds is its own. */
    int64_t own_bytes;
    double own_inodes;
    int32_t first, end; /* its groups are group[first] to group[end - 1] */
    uint8_t has_own, local;
} image_t;

/* Put layers that the same images hold into groups; what one image alone holds is its own.
 *
 * first, layer: the layers of image i are layer[first[i]] to layer[first[i + 1] - 1]; written: facts of images; group, group_bytes,
 * group_inodes.
 * pair_space: by image and layer what a pull takes besides if that is missing, or NULL; written: the most of it, own_space
 * per image and space as group.
 */
int kernel_groups(int32_t images, int32_t layers, const int64_t *first, const int64_t *layer, const int64_t *bytes,
                  const double *inodes, const uint8_t *local, image_t *facts, int32_t *group, int64_t *group_bytes, double *group_inodes,
                  int32_t *group_of_layer, const int64_t *pair_space, int64_t *own_space, int64_t *space, int32_t *groups) {
    int status = NO_MEMORY;
    int32_t slots = 64;
    while (slots < 2 * layers) slots *= 2;
    layer_t *all = calloc((size_t)layers + 1, sizeof *all);
    int32_t *slot = malloc(sizeof *slot * (size_t)slots), *stamp = malloc(sizeof *stamp * ((size_t)layers + 1));
    if (!all || !slot || !stamp) goto done;
    for (int32_t j = 0; j < layers; j++) all[j].image = -1, stamp[j] = -1;
    for (int32_t i = 0; i < images; i++) {
        uint64_t one = mixed((uint64_t)i), two = mixed(one ^ 0x5851f42d4c957f2du);
        for (int64_t k = first[i]; k < first[i + 1]; k++) {
            layer_t *l = &all[layer[k]];
            if (l->holders && l->image == i) continue; /* twice in one image */
            l->image = i, l->holders++, l->one += one, l->two += two;
        }
    }
    memset(slot, 0xff, sizeof *slot * (size_t)slots);
    int32_t count = 0;
    for (int32_t j = 0; j < layers; j++) {
        all[j].number = group_of_layer[j] = -1;
        if (all[j].holders < 2) continue;
        int32_t at = (int32_t)(all[j].one & (uint64_t)(slots - 1));
        while (slot[at] >= 0 && (all[slot[at]].one != all[j].one || all[slot[at]].two != all[j].two ||
                                 all[slot[at]].holders != all[j].holders))
            at = (at + 1) & (slots - 1);
        if (slot[at] < 0) {
            slot[at] = j;
            all[j].number = count;
            group_bytes[count] = 0, group_inodes[count] = 0.0;
            count++;
        }
        int32_t g = group_of_layer[j] = all[slot[at]].number;
        group_bytes[g] += bytes[j], group_inodes[g] += inodes[j];
    }
    int32_t written = 0;
    for (int32_t i = 0; i < images; i++) {
        image_t *image = &facts[i];
        *image = (image_t){.first = written, .local = local[i]};
        if (pair_space) own_space[i] = 0;
        for (int64_t k = first[i]; k < first[i + 1]; k++) {
            int32_t j = (int32_t)layer[k], g = group_of_layer[j];
            if (g >= 0) {
                if (stamp[g] != i) {
                    if (pair_space) space[written] = 0;
                    slot[g] = written; /* the table of groups is of no more use */
                    group[written++] = g, stamp[g] = i;
                }
                if (pair_space && pair_space[k] > space[slot[g]]) space[slot[g]] = pair_space[k];
            } else if (all[j].holders == 1) {
                if (pair_space && pair_space[k] > own_space[i]) own_space[i] = pair_space[k];
                image->has_own = 1, image->own_bytes += bytes[j], image->own_inodes += inodes[j];
                all[j].holders = 0; /* once */
            }
        }
        image->end = written;
    }
    *groups = count;
    status = OK;
done:
    free(all), free(slot), free(stamp);
    return status;
}
