/* Bits: which uses will bring in. */

/* Each level has a bit per word of the one below that is not 0. */
typedef struct {
    uint64_t *level[BIT_LEVELS];
    int32_t words[BIT_LEVELS];
    int levels;
} bits_t;

static int bits_make(bits_t *bits, int32_t count) {
    bits->levels = 0;
    int32_t words = count;
    do {
        words = words / 64 + 1;
        bits->words[bits->levels] = words;
        /* Not by calloc: to write to a page that was read before halts all threads. */
        void **level = (void **)&bits->level[bits->levels++];
        if (grow(level, words, sizeof(uint64_t))) return NO_MEMORY;
        memset(*level, 0, (size_t)words * sizeof(uint64_t));
    } while (words > 1 && bits->levels < BIT_LEVELS);
    return OK;
}

static void bits_free(bits_t *bits) {
    for (int l = 0; l < bits->levels; l++) free(bits->level[l]);
}

static inline void bits_set(bits_t *bits, int32_t at) {
    for (int l = 0; l < bits->levels; l++) {
        uint64_t *word = &bits->level[l][at >> 6], before = *word;
        *word = before | (uint64_t)1 << (at & 63);
        if (before) return;
        at >>= 6;
    }
}

/* Prefetch what is needed to set a bit. */
static inline void bits_fetch(const bits_t *bits, int32_t at) {
    if (at >> 6 < bits->words[0]) PREFETCH(&bits->level[0][at >> 6]);
}

static inline void bits_clear(bits_t *bits, int32_t at) {
    for (int l = 0; l < bits->levels; l++) {
        uint64_t *word = &bits->level[l][at >> 6];
        *word &= ~((uint64_t)1 << (at & 63));
        if (*word) return;
        at >>= 6;
    }
}

/* The first bit set at `from` or later, or NOWHERE. */
static inline int32_t bits_next(const bits_t *bits, int32_t from) {
    for (int l = 0; l < bits->levels; l++) {
        int32_t word = from >> 6;
        if (word >= bits->words[l]) return NOWHERE;
        uint64_t found = bits->level[l][word] & ~(uint64_t)0 << (from & 63);
        if (found) {
            int32_t at = word * 64 + __builtin_ctzll(found);
            while (l-- > 0) at = at * 64 + __builtin_ctzll(bits->level[l][at]);
            return at;
        }
        from = word + 1;
    }
    return NOWHERE;
}
