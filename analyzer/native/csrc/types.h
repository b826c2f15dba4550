/* What a replay is given. */

typedef struct {
    int32_t images, groups, uses, disks, gaps, guesses, parts;
    int64_t periods;
    double trace_end, scale;
    const double *time;
    const double *until;
    const int32_t *image;
    const uint8_t *kind;
    const int32_t *bringing;
    const int32_t *following; /* NULL where least recently used goes first and every use counts */
    const int32_t *before;
    const double *end;
    const int32_t *period_image;
    const int32_t *at;
    const int32_t *next;
    const image_t *facts; /* by image */
    const int32_t *group;
    const int64_t *group_bytes;
    const double *group_inodes;
    const int64_t *own_space, *space; /* what a pull takes besides where these are missing, space by group as in `group`;
                                       * NULL: nothing */
    const uint8_t *local;
    const double *disk_time;
    const int64_t *disk_total;
    const int64_t *disk_other;
    const int64_t *inode_total;
    const int64_t *inode_other;
    const int32_t *disk_class;
    const double *gap_begin;
    const double *gap_end;
    /* What jobs in flight may need by a guess, in order of time: goes after all else, the higher the rank, the later. */
    const double *guess_begin, *guess_end;
    const int32_t *guess_image;
    const uint8_t *guess_rank;
} trace_t;
#define GUESS_RANKS 2

/* What chooses the images that go: least recently used first; orders that look at what the policy did; keys by another
 * order; a rule of age, carried out at each tick; another tool. */
enum { BY_LAST_USE, BY_PULL, BY_GDSF, BY_RANKED_LAST_USE, BY_MOMENTS, BY_AGE, BY_TOOL };

/* Local images that may go although they exist only on this host; see pruner.policy.local_images. */
typedef struct {
    double idle; /* seconds */
    int32_t repositories, gaps;
    const int32_t *first, *repository;   /* those of image i are repository[first[i]] to repository[first[i + 1] - 1] */
    const int32_t *borne_first, *borne;  /* the same of those in which it has a name for some time */
    const double *borne_from, *borne_until;
    const int64_t *sight; /* per image: of two with the same none is known to be the later one */
    const double *gap_begin, *gap_end; /* the one that ends last first */
} superseded_t;

/* A threshold that follows from how far free space fell within an interval; see pruner.policy.headroom. */
typedef int (*levels_t)(int32_t disk_class, double threshold, double *levels);
typedef struct {
    double margin, least, most; /* of the deepest fall; shares of the disk */
    double reach;               /* seconds within which a fall counts as one */
    int64_t kept, enough;       /* intervals */
    int64_t sets;               /* bytes of images that there must be room for, from when on */
    const double *set_from, *set_bytes;
    levels_t levels;
} headroom_t;

/* What other tools do at each tick: remove all unused images of which something is longer ago. */
enum { BUILT, PULLED, USED };
typedef struct {
    double age, low; /* only while less than this share of the disk is free; negative: whatever is free */
    const double *built;
    const uint8_t *removable;
    int32_t clock;
} age_rule_t;

/* A tool of `analyzer.baselines` whose rules are compiled too; what its amounts are stands with each. */
enum { STONE, DOCUUM, DRONE_GC, KUBELET, ECS, NOMAD, TASKCLUSTER, ARVADOS };
typedef struct {
    int32_t kind, exact; /* exact: book what a removal frees as it is */
    double restarts;     /* seconds between restarts; 0: none */
    double amount[6];
    const double *built;
    const int64_t *sizes;
} tool_t;

/* Fill keys[k] for images present[k]; not 0: failed. */
typedef int (*keys_t)(double now, int32_t count, const int32_t *present, double *keys);

/* What forecasts are made from; see pruner.state.learning. */
typedef struct {
    const uint8_t *usage; /* per use: the image's habit and use count from then on, see usage_of */
    const double *superseded, *expected; /* per image since when; per age returns per second where nothing is known */
    const double *by_stage, *by_habit;   /* per age, then stage, or habit and stage: relative to the coarser situation */
    const uint16_t *by_use; /* per chance, stage, use count, and recent uses of the repository: thousandths of the chance */
    const learning_t *learning;          /* by habit */
    const int32_t *first, *repository;   /* those of image i are repository[first[i]] to repository[first[i + 1] - 1] */
    /* At midnight d the bins of some repositories' recent uses change: change[turned[d]] to change[turned[d + 1] - 1]. */
    const int64_t *turned;
    const int32_t *changed;
    const uint8_t *bin;
    int64_t offset;                      /* milliseconds of the origin after midnight */
    int64_t repositories;
    double trust[3];
} learned_t;

/* Images as they stand at a moment: the same under every policy. */
typedef struct moment {
    struct moment *next; /* of those that are kept */
    size_t slot;
    double now;
    int32_t position;
    int32_t count; /* images that are ranked */
    double *last_use;
    int32_t *latest, *ranked; /* ranked: first to go first */
} moment_t;

/* Moments at which a policy decided, kept for those that are replayed together, in one thread. */
typedef struct {
    const learned_t *learned; /* NULL: ask */
    keys_t ask;
    int64_t room, size; /* bytes that are left; of each */
    size_t slots;
    moment_t **slot, *kept, *spare; /* spare: room that was given for those before */
    moment_t *reached; /* the latest that was passed: what was known then is not learned again */
    /* Where replays go on together from one time to another: per image whether any held it then, and which use came next. */
    int together;
    uint8_t *wanted;
    int32_t from;
} moments_t;
#define MOST_MOMENTS 65536

typedef struct {
    const double *levels; /* per class of disk LEVELS amounts: threshold, target, emergency; bytes, inodes */
    const uint8_t *protected;
    double interval, min_age, allowlist_idle, gap_grace, level; /* min_age: the least of those below */
    /* Where events start a prune: seconds from a sample to what the prune has freed, bytes a second of pulls, and for how
     * long one that does not free enough is followed by none, at first and at most. */
    double latency, pull_rate, first_pause, last_pause;
    const double *age_from, *age; /* which minimum age holds from when on; the first always */
    int32_t ages;
    int32_t at_events, keep_local, keep_removals, keep_steps;
    int32_t chooser;
    const int64_t *sizes; /* bytes of all layers of each image */
    union {
        moments_t *moments;
        const age_rule_t *rule;
        const tool_t *tool;
    } by; /* as `chooser` says; else NULL */
    const headroom_t *headroom; /* not NULL: the levels are those on this disk until enough is known */
    const superseded_t *superseded; /* NULL: none may */
} policy_t;

/* Whether images are ranked at each decision. */
static inline int is_ranked(const policy_t *policy) {
    return policy->chooser >= BY_PULL && policy->chooser <= BY_MOMENTS;
}

typedef struct {
    int64_t compulsory, compulsory_bytes, repulls, repulled_bytes, losses, removals, removed_bytes,
        emergency_removals, prunes, disk_full;
    double min_free, seconds_under, byte_seconds;
    int64_t kept_removals, kept_steps;
    double *removal_time;
    int32_t *removal_image;
    int64_t *removal_bytes;
    uint8_t *removal_emergency;
    double *step_time;
    int64_t *step_free;
} result_t;
