/* What all parts share. */

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "constants.h"

#define KIND_BITS 3
#define IMAGE_BITS (32 - KIND_BITS)
#define SPAN_BITS 50
#define MOVES_EACH 8
enum { THRESHOLD = 0, TARGET = 2, EMERGENCY = 4, LEVELS = 6 };
enum { OK = 0, NO_MEMORY = 1, CALLBACK = 2 };
#define NOWHERE INT32_MAX
#define BIT_LEVELS 6
#define SORTED_APART 8 /* so many by insertion, then merged */

#ifndef SOURCE_CRC
#define SOURCE_CRC 0
#endif

#if defined(__GNUC__)
#define PREFETCH(place) __builtin_prefetch(place)
#define RARE __attribute__((noinline, cold)) /* kept out of the loops that run without it */
#else
#define RARE
#define PREFETCH(place) ((void)0)
#endif

/* Which source this was compiled from. */
uint32_t kernel_source(void) { return (uint32_t)SOURCE_CRC; }
