/* The replay of `analyzer.simulation.replay`, compiled: same semantics, same figures, to the last bit.
 *
 * A use that finds its image there changes nothing that a policy decides on, except when the image
 * was last used; and that is the same under every policy. So an index, made once per trace, lists
 * the *idle periods* of all images in the order of last use, and a replay touches only what changes
 * the host: uses of images that are not there, disk states, ticks with too little space, removals.
 *
 * Floating point follows the reference operation by operation; compile without contraction.
 *
 * One unit of translation, so that what is called most is inlined; each part builds on those above it.
 */
#include "csrc/common.h"
#include "csrc/index.c"
#include "csrc/learning.c"
#include "csrc/layers.c"
#include "csrc/types.h"
#include "csrc/bits.c"
#include "csrc/host_state.c"
#include "csrc/decision.c"
#include "csrc/ranking.c"
#include "csrc/thresholds.c"
#include "csrc/age_rule.c"
#include "csrc/replay.c"
#include "csrc/tools.c"
#include "csrc/runs.c"
#include "csrc/bound.c"
