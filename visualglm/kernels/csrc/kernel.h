/* kernel: what the files of this folder share. Plain C11, no Python and no torch; loaded through ctypes.
 *
 * LAYOUT (arranged weights). 16 rows (outputs) stand side by side: a line of 64 bytes holds 4 bytes of each of 16 rows.
 *   int8: per block of 16 rows, K / 4 lines; byte = weight + 128 of inputs 4i..4i+3. K is padded to GROUP8.
 *   int4: per block of 16 rows, pairs of groups: one line with the scales (2 x 16 float16), then the two groups, each
 *         group_size / 8 lines; low nibbles = weight + 8 of inputs 8i..8i+3, high nibbles of 8i+4..8i+7.
 * Weights are unsigned and activations signed because `vpdpbusd` multiplies one of each; the offset (128 or 8) is taken off by
 * the sum of the activations, which costs one addition per group and row.
 */
#ifndef VISUALGLM_KERNEL_H
#define VISUALGLM_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#define LANES 16   /* rows (outputs) side by side */
#define LINE 64    /* bytes of a line: 4 inputs of 16 rows */
#define GROUP8 64  /* inputs that share an activation scale where the weights are int8 */
#define LARGEST_GROUP 512 /* inputs of a group of int4 weights that the interface takes */
#define TILE 8     /* rows of activations per pass over the weights */
#define PAIR (2 * TILE)

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_X86 1
#else
#define HAVE_X86 0
#endif

enum { FLOAT32 = 0, BFLOAT16 = 1 };            /* dtype codes of the interface */
enum { PATH_PORTABLE, PATH_AVX2, PATH_AVX512 }; /* in the order of speed */

/* Activations, quantised: int8 with a scale and an offset correction per group. */
typedef struct {
    int rows, inputs, group, groups; /* inputs = group * groups, padded with zeros */
    int8_t *values;                  /* [rows, inputs] */
    float *scales;                   /* [rows, groups]; NaN where the group holds NaN or infinity */
    int32_t *corrections;            /* [rows, groups]: -offset * sum of the group */
} activations;

/* One block of 16 outputs for `rows` <= TILE rows of activations beginning at `first` -> result[rows][16]. */
typedef void (*block_kernel)(const uint8_t *block, const activations *x, int first, int rows, float result[][LANES]);
/* The same for the block and the one `next` bytes behind it -> result[rows][16] and result[TILE + rows][16]. */
typedef void (*pair_kernel)(const uint8_t *block, size_t next, const activations *x, int first, int rows,
                            float result[][LANES]);

int kernel_path(void);
void portable_int4(const uint8_t *, const activations *, int, int, float[][LANES]);
void portable_int8(const uint8_t *, const activations *, int, int, float[][LANES]);
#if HAVE_X86
void avx2_int4(const uint8_t *, const activations *, int, int, float[][LANES]);
void avx2_int8(const uint8_t *, const activations *, int, int, float[][LANES]);
void avx512_int4(const uint8_t *, const activations *, int, int, float[][LANES]);
void avx512_int8(const uint8_t *, const activations *, int, int, float[][LANES]);
void avx512_int8_pair(const uint8_t *, size_t, const activations *, int, int, float[][LANES]);
int32_t avx512_multiply(int rounds);
#endif
#define PRODUCTS_OF_ROUND (12 * 64) /* of avx512_multiply: 12 instructions, which hide each other's latency */

/* Runs `work(data)` on up to `threads` threads at once; the work shares itself out by `next_piece`. */
void run_parallel(void (*work)(void *), void *data, int threads);
static inline int next_piece(int *counter) { return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

static inline float from_bits(uint32_t bits) { float f; __builtin_memcpy(&f, &bits, 4); return f; }
static inline uint32_t to_bits(float f) { uint32_t bits; __builtin_memcpy(&bits, &f, 4); return bits; }
static inline float from_bfloat16(uint16_t b) { return from_bits((uint32_t)b << 16); }

static inline uint16_t to_bfloat16(float f) { /* nearest even; NaN stays NaN */
    uint32_t bits = to_bits(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float from_float16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) return from_bits(sign | 0x7f800000u | (rest & 0x3ff) << 13);
    return from_bits(sign | to_bits(from_bits(rest << 13) * 5.192296858534828e33f)); /* 2^112 rebiases the exponent */
}

#define ROUNDER 12582912.0f /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
static inline int32_t nearest_integer(float f) { return (int32_t)(to_bits(f + ROUNDER) - to_bits(ROUNDER)); }

static inline float load_number(const void *p, size_t i, int dtype) {
    return dtype == BFLOAT16 ? from_bfloat16(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}
static inline void store_number(void *p, size_t i, int dtype, float value) {
    if (dtype == BFLOAT16) ((uint16_t *)p)[i] = to_bfloat16(value);
    else ((float *)p)[i] = value;
}

#endif
