/* vectors: 16 numbers at once, in whatever registers the machine has; for loops over float32 and bfloat16. */
#ifndef VISUALGLM_VECTORS_H
#define VISUALGLM_VECTORS_H

#include "kernel.h"

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef float vector_half __attribute__((vector_size(2 * LANES)));
typedef float vector_quarter __attribute__((vector_size(LANES)));
typedef uint32_t vector_bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t vector_bfloat16 __attribute__((vector_size(2 * LANES)));
#define INLINE static inline __attribute__((always_inline))

INLINE void load_vector(vector *to, const void *from, size_t at, const int dtype) {
    if (dtype == BFLOAT16) {
        vector_bfloat16 halves;
        __builtin_memcpy(&halves, (const uint16_t *)from + at, sizeof halves);
        *to = (vector)(__builtin_convertvector(halves, vector_bits) << 16);
    } else __builtin_memcpy(to, (const float *)from + at, sizeof *to);
}

INLINE float sum_of(const vector *sums) {
    vector_half halves[2];
    vector_quarter quarters[2];
    __builtin_memcpy(halves, sums, sizeof halves);
    halves[0] += halves[1];
    __builtin_memcpy(quarters, halves, sizeof quarters);
    quarters[0] += quarters[1];
    return (quarters[0][0] + quarters[0][2]) + (quarters[0][1] + quarters[0][3]);
}

#endif
