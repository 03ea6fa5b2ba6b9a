/* quantize: numbers -> stored int4 or int8 weights (`packing.py` defines both), the same bits on every path.
 *
 * Sums run in 16 fixed lanes, and products are rounded before they are added (-ffp-contract=off), so that no processor
 * finds another scale.
 */
#include "vectors.h"

#define FLOAT16 2
#define CANDIDATES 6

static const float reaches[CANDIDATES] = {0.80f, 0.85f, 0.90f, 0.95f, 1.00f, 1.05f}; /* SCALE_CANDIDATES of packing.py */

typedef struct {
    const void *numbers;     /* [outputs, inputs] */
    const float *importance; /* [inputs], or NULL */
    uint8_t *stored;
    void *scales; /* float16 [outputs, groups] of int4, float32 [outputs] of int8 */
    int dtype, outputs, inputs, group, next, broken;
} quantization;

INLINE uint16_t to_float16(float f) { /* nearest even; too large is infinite */
    uint32_t bits = to_bits(f), sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffffu;
    if (bits >= 0x477ff000u) return (uint16_t)(sign | 0x7c00);
    if (bits < 0x38800000u) return (uint16_t)(sign | (to_bits(from_bits(bits) + 0.5f) - to_bits(0.5f)));
    return (uint16_t)(sign | (bits + 0xfff + (bits >> 13 & 1) - 0x38000000u) >> 13);
}

/* Loads `count` numbers and fills up with zeros to `size`. Returns 1 where one is NaN or infinite. */
INLINE int load(const void *restrict from, size_t at, int count, int size, const int dtype, float *restrict x) {
    uint32_t largest = 0;
    for (int i = 0; i < count; i++) {
        if (dtype == FLOAT16) {
            uint32_t half = ((const uint16_t *)from)[at + i], rest = half & 0x7fff;
            largest = rest > largest ? rest : largest;
            x[i] = from_bits((half & 0x8000) << 16 | to_bits(from_bits(rest << 13) * 5.192296858534828e33f));
        } else {
            x[i] = dtype == BFLOAT16 ? from_bfloat16(((const uint16_t *)from)[at + i]) : ((const float *)from)[at + i];
            uint32_t bits = to_bits(x[i]) & 0x7fffffffu;
            largest = bits > largest ? bits : largest;
        }
    }
    for (int i = count; i < size; i++) x[i] = 0;
    return largest >= (dtype == FLOAT16 ? 0x7c00u : 0x7f800000u);
}

INLINE float inverse(float scale) { return scale > 1e-30f || scale < -1e-30f ? 1.0f / scale : 0.0f; }

INLINE int32_t nearest(float x, float inverse_scale, int32_t least, int32_t most) {
    int32_t value = nearest_integer(x * inverse_scale);
    value = value < least ? least : value;
    return value > most ? most : value;
}

/* The number of greatest magnitude, the first of several. Signed integers order positive floats, unsigned negative ones. */
INLINE float greatest(const float *restrict x, int group) {
    int32_t above = 0;
    uint32_t below = 0x80000000u;
    for (int i = 0; i < group; i++) {
        uint32_t bits = to_bits(x[i]);
        above = (int32_t)bits > above ? (int32_t)bits : above;
        below = bits > below ? bits : below;
    }
    uint32_t magnitude = below & 0x7fffffffu;
    if ((uint32_t)above != magnitude) return from_bits((uint32_t)above > magnitude ? (uint32_t)above : below);
    for (int i = 0; i < group; i++)
        if ((to_bits(x[i]) & 0x7fffffffu) == magnitude) return x[i];
    return 0;
}

INLINE float searched_scale(const float *restrict x, const float *restrict weights, int group) {
    float start = greatest(x, group) / -8.0f, best = 0, won = 0;
    for (int candidate = 0; candidate < CANDIDATES; candidate++) {
        float inverse_scale = inverse(start * reaches[candidate]);
        vector matches = {0}, sizes = {0};
        for (int i = 0; i < group; i += LANES)
            for (int lane = 0; lane < LANES; lane++) {
                float value = (float)nearest(x[i + lane], inverse_scale, -8, 7), weighed = value;
                if (weights) weighed *= weights[i + lane];
                matches[lane] += x[i + lane] * weighed;
                sizes[lane] += value * weighed;
            }
        float match = sum_of(&matches), scale = match * inverse(sum_of(&sizes));
        if (match * scale > won) won = match * scale, best = scale;
    }
    return best;
}

INLINE int int4_row(const quantization *q, int row, const int dtype) {
    int groups = (q->inputs + q->group - 1) / q->group;
    uint8_t *stored = q->stored + (size_t)row * groups * q->group / 2;
    float x[LARGEST_GROUP], weights[LARGEST_GROUP];
    for (int g = 0; g < groups; g++, stored += q->group / 2) {
        int from = g * q->group, count = q->inputs - from < q->group ? q->inputs - from : q->group;
        if (load(q->numbers, (size_t)row * q->inputs + from, count, q->group, dtype, x)) return 1;
        if (q->importance) load(q->importance, from, count, q->group, FLOAT32, weights);
        uint16_t scale = to_float16(searched_scale(x, q->importance ? weights : NULL, q->group));
        ((uint16_t *)q->scales)[(size_t)row * groups + g] = scale;
        float inverse_scale = inverse(from_float16(scale));
        for (int i = 0; i < q->group / 2; i++)
            stored[i] = (uint8_t)(nearest(x[2 * i], inverse_scale, -8, 7) + 8 +
                                  16 * (nearest(x[2 * i + 1], inverse_scale, -8, 7) + 8));
    }
    return 0;
}

INLINE int int8_row(const quantization *q, int row, const int dtype) {
    float x[LARGEST_GROUP], scale, inverse_scale = 0;
    uint32_t largest = 0;
    int8_t *stored = (int8_t *)q->stored + (size_t)row * q->inputs;
    for (int pass = 0; pass < 2; pass++) {
        for (int from = 0; from < q->inputs; from += LARGEST_GROUP) {
            int count = q->inputs - from < LARGEST_GROUP ? q->inputs - from : LARGEST_GROUP;
            if (load(q->numbers, (size_t)row * q->inputs + from, count, count, dtype, x)) return 1;
            for (int i = 0; i < count; i++)
                if (pass) stored[from + i] = (int8_t)nearest(x[i], inverse_scale, -127, 127);
                else largest = (to_bits(x[i]) & 0x7fffffffu) > largest ? to_bits(x[i]) & 0x7fffffffu : largest;
        }
        scale = from_bits(largest) / 127.0f;
        inverse_scale = inverse(scale);
    }
    ((float *)q->scales)[row] = scale;
    return 0;
}

INLINE int one_row(const quantization *q, int row) {
    if (q->dtype == FLOAT16) return q->group ? int4_row(q, row, FLOAT16) : int8_row(q, row, FLOAT16);
    if (q->dtype == BFLOAT16) return q->group ? int4_row(q, row, BFLOAT16) : int8_row(q, row, BFLOAT16);
    return q->group ? int4_row(q, row, FLOAT32) : int8_row(q, row, FLOAT32);
}

#if HAVE_X86
__attribute__((target("avx2"))) static int one_row_avx2(const quantization *q, int row) { return one_row(q, row); }
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512"))) static int one_row_avx512(
    const quantization *q, int row) { return one_row(q, row); }
#endif

static void quantize_rows(void *data) {
    quantization *q = data;
    for (int row; (row = next_piece(&q->next)) < q->outputs;) {
        int broken;
#if HAVE_X86
        if (kernel_path() == PATH_AVX512) broken = one_row_avx512(q, row);
        else if (kernel_path() == PATH_AVX2) broken = one_row_avx2(q, row);
        else broken = one_row(q, row);
#else
        broken = one_row(q, row);
#endif
        if (broken) __atomic_store_n(&q->broken, 1, __ATOMIC_RELAXED);
    }
}

/* numbers [outputs, inputs] of float32, bfloat16 or float16 -> stored form. Returns 1 where a number is not finite. */
int visualglm_quantize_int4(const void *numbers, const float *importance, uint8_t *stored, uint16_t *scales, int dtype,
                            int outputs, int inputs, int group, int threads) {
    quantization q = {numbers, importance, stored, scales, dtype, outputs, inputs, group, 0, 0};
    run_parallel(quantize_rows, &q, threads);
    return q.broken;
}

int visualglm_quantize_int8(const void *numbers, int8_t *stored, float *scales, int dtype, int outputs, int inputs,
                            int threads) {
    quantization q = {numbers, NULL, (uint8_t *)stored, scales, dtype, outputs, inputs, 0, 0, 0};
    run_parallel(quantize_rows, &q, threads);
    return q.broken;
}
