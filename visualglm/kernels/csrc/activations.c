/* activations: numbers in float32 or bfloat16 -> int8 with a scale per group, the same bits on every path.
 *
 * value = round(x * 127 / largest of the group), scale = largest / 127. A group that holds NaN or infinity gets scale NaN,
 * so that its row's outputs are NaN and nothing overflows; one whose largest is below 1e-30 counts as zeros.
 */
#include "kernel.h"

/* `restrict` and integer maxima let every compiler vectorise these loops without -ffast-math. */
static inline __attribute__((always_inline)) uint32_t largest_bits(const float *restrict x, int count) {
    uint32_t largest = 0;
    for (int i = 0; i < count; i++) {
        uint32_t bits = to_bits(x[i]) & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

static inline __attribute__((always_inline)) int32_t round_group(const float *restrict x, float inverse,
                                                                 int8_t *restrict values, int count) {
    int32_t sum = 0;
    for (int i = 0; i < count; i++) {
        int32_t value = nearest_integer(x[i] * inverse);
        values[i] = (int8_t)value;
        sum += value;
    }
    return sum;
}

static inline __attribute__((always_inline)) void load_group(const void *restrict source, size_t from, int count,
                                                             int dtype, float *restrict x, int group) {
    if (dtype == BFLOAT16)
        for (int i = 0; i < count; i++) x[i] = from_bfloat16(((const uint16_t *)source)[from + i]);
    else
        for (int i = 0; i < count; i++) x[i] = ((const float *)source)[from + i];
    for (int i = count; i < group; i++) x[i] = 0;
}

static inline __attribute__((always_inline)) void quantize_row(const void *source, int dtype, int inputs, int offset,
                                                               const activations *a, int row) {
    float x[LARGEST_GROUP];
    for (int g = 0; g < a->groups; g++) {
        int from = g * a->group, left = inputs - from, count = left < 0 ? 0 : left < a->group ? left : a->group;
        size_t at = (size_t)row * a->groups + g;
        load_group(source, (size_t)row * inputs + from, count, dtype, x, a->group);
        float largest = from_bits(largest_bits(x, a->group));
        int finite = largest <= 3.4028234663852886e38f, zero = largest < 1e-30f;
        float inverse = finite && !zero ? 127.0f / largest : 0.0f;
        if (!finite) for (int i = 0; i < a->group; i++) x[i] = 0;
        int32_t sum = round_group(x, inverse, a->values + (size_t)row * a->inputs + from, a->group);
        a->scales[at] = !finite ? from_bits(0x7fc00000u) : zero ? 0.0f : largest / 127.0f;
        a->corrections[at] = -offset * sum;
    }
}

#if HAVE_X86
__attribute__((target("avx2,fma"))) static void quantize_row_avx2(const void *source, int dtype, int inputs, int offset,
                                                                  const activations *a, int row) {
    quantize_row(source, dtype, inputs, offset, a, row);
}
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"))) static void quantize_row_avx512(
    const void *source, int dtype, int inputs, int offset, const activations *a, int row) {
    quantize_row(source, dtype, inputs, offset, a, row);
}
#endif

void quantize_activations(const void *source, int dtype, int inputs, int offset, const activations *a, int row) {
#if HAVE_X86
    if (kernel_path() == PATH_AVX512) { quantize_row_avx512(source, dtype, inputs, offset, a, row); return; }
    if (kernel_path() == PATH_AVX2) { quantize_row_avx2(source, dtype, inputs, offset, a, row); return; }
#endif
    quantize_row(source, dtype, inputs, offset, a, row);
}
