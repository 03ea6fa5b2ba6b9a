/* avx512: blocks of 16 outputs with `vpdpbusd` (AVX512-VNNI), one accumulator per block and row of activations.
 *
 * `rows` and `group` are compile-time constants of each instance, so that the accumulators stay in registers. A pair of
 * int8 blocks shares the loads of activations, which else limit many rows; int4 gains nothing, its unpacking takes the time.
 * Every row's sums run in the same order in all of them: a row has the same bits alone and in a batch.
 */
#include "kernel.h"
#if HAVE_X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")))
#define INLINE TARGET static inline __attribute__((always_inline))
#define AHEAD 1536 /* bytes that the software prefetch runs ahead of the loads */

INLINE __m512i broadcast(const int8_t *p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
}

INLINE void int4_block(const uint8_t *block, const activations *x, int first, const int rows, const int group,
                       float result[][LANES]) {
    const __m512i mask = _mm512_set1_epi8(15);
    const int8_t *values = x->values + (size_t)first * x->inputs;
    const float *scales = x->scales + (size_t)first * x->groups;
    const int32_t *corrections = x->corrections + (size_t)first * x->groups;
    __m512 sums[TILE];
    for (int row = 0; row < rows; row++) sums[row] = _mm512_setzero_ps();
    for (int g = 0; g < x->groups; g++) {
        const uint8_t *head = block + (size_t)(g / 2) * (LINE + (size_t)(group / 4) * LINE);
        const uint8_t *line = head + LINE + (size_t)(g % 2) * (group / 8) * LINE;
        __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(head + 32 * (g % 2))));
        __m512i low[TILE], high[TILE];
        for (int row = 0; row < rows; row++) {
            low[row] = _mm512_set1_epi32(corrections[(size_t)row * x->groups + g]);
            high[row] = _mm512_setzero_si512();
        }
        for (int i = 0; i < group / 8; i++) {
            _mm_prefetch((const char *)line + LINE * i + AHEAD, _MM_HINT_T0);
            __m512i both = _mm512_loadu_si512(line + LINE * i);
            __m512i first_four = _mm512_and_si512(both, mask);
            __m512i second_four = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
            for (int row = 0; row < rows; row++) {
                const int8_t *v = values + (size_t)row * x->inputs + g * group + 8 * i;
                low[row] = _mm512_dpbusd_epi32(low[row], first_four, broadcast(v));
                if (rows <= 2) high[row] = _mm512_dpbusd_epi32(high[row], second_four, broadcast(v + 4));
                else low[row] = _mm512_dpbusd_epi32(low[row], second_four, broadcast(v + 4));
            }
        }
        for (int row = 0; row < rows; row++) {
            __m512i sum = rows <= 2 ? _mm512_add_epi32(low[row], high[row]) : low[row];
            __m512 both_scales = _mm512_mul_ps(scale, _mm512_set1_ps(scales[(size_t)row * x->groups + g]));
            sums[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), both_scales, sums[row]);
        }
    }
    for (int row = 0; row < rows; row++) _mm512_storeu_ps(result[row], sums[row]);
}

INLINE void int8_block(const uint8_t *block, const activations *x, int first, const int rows, float result[][LANES]) {
    const int8_t *values = x->values + (size_t)first * x->inputs;
    const float *scales = x->scales + (size_t)first * x->groups;
    const int32_t *corrections = x->corrections + (size_t)first * x->groups;
    __m512 sums[TILE];
    for (int row = 0; row < rows; row++) sums[row] = _mm512_setzero_ps();
    for (int g = 0; g < x->groups; g++, block += GROUP8 / 4 * LINE, values += GROUP8) {
        __m512i even[TILE], odd[TILE];
        for (int row = 0; row < rows; row++) {
            even[row] = _mm512_set1_epi32(corrections[(size_t)row * x->groups + g]);
            odd[row] = _mm512_setzero_si512();
        }
        for (int i = 0; i < GROUP8 / 4; i += 2) {
            _mm_prefetch((const char *)block + LINE * i + AHEAD, _MM_HINT_T0);
            _mm_prefetch((const char *)block + LINE * i + LINE + AHEAD, _MM_HINT_T0);
            __m512i here = _mm512_loadu_si512(block + LINE * i), next = _mm512_loadu_si512(block + LINE * i + LINE);
            for (int row = 0; row < rows; row++) {
                const int8_t *v = values + (size_t)row * x->inputs + 4 * i;
                even[row] = _mm512_dpbusd_epi32(even[row], here, broadcast(v));
                if (rows <= 2) odd[row] = _mm512_dpbusd_epi32(odd[row], next, broadcast(v + 4));
                else even[row] = _mm512_dpbusd_epi32(even[row], next, broadcast(v + 4));
            }
        }
        for (int row = 0; row < rows; row++) {
            __m512i sum = rows <= 2 ? _mm512_add_epi32(even[row], odd[row]) : even[row];
            __m512 scale = _mm512_set1_ps(scales[(size_t)row * x->groups + g]);
            sums[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, sums[row]);
        }
    }
    for (int row = 0; row < rows; row++) _mm512_storeu_ps(result[row], sums[row]);
}

INLINE void int8_pair(const uint8_t *block, size_t next, const activations *x, int first, const int rows,
                      float result[][LANES]) {
    const int8_t *values = x->values + (size_t)first * x->inputs;
    const float *scales = x->scales + (size_t)first * x->groups;
    const int32_t *corrections = x->corrections + (size_t)first * x->groups;
    for (int row = 0; row < PAIR; row++) _mm512_storeu_ps(result[row], _mm512_setzero_ps());
    for (int g = 0; g < x->groups; g++, block += GROUP8 / 4 * LINE, values += GROUP8) {
        __m512i sums[2][TILE];
        for (int row = 0; row < rows; row++)
            sums[0][row] = sums[1][row] = _mm512_set1_epi32(corrections[(size_t)row * x->groups + g]);
#pragma GCC unroll 16
        for (int i = 0; i < GROUP8 / 4; i++) {
            __m512i weights[2];
            for (int b = 0; b < 2; b++) {
                _mm_prefetch((const char *)block + b * next + LINE * i + AHEAD, _MM_HINT_T0);
                weights[b] = _mm512_loadu_si512(block + b * next + LINE * i);
            }
            for (int row = 0; row < rows; row++) {
                __m512i four = broadcast(values + (size_t)row * x->inputs + 4 * i);
                for (int b = 0; b < 2; b++) sums[b][row] = _mm512_dpbusd_epi32(sums[b][row], weights[b], four);
            }
        }
        for (int b = 0; b < 2; b++)
            for (int row = 0; row < rows; row++) {
                float *sum = result[b * TILE + row];
                __m512 scale = _mm512_set1_ps(scales[(size_t)row * x->groups + g]);
                _mm512_storeu_ps(sum, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[b][row]), scale, _mm512_loadu_ps(sum)));
            }
    }
}

#define ROWS(call) \
    switch (rows) { \
        case 1: { const int n = 1; call; break; } \
        case 2: { const int n = 2; call; break; } \
        case 3: { const int n = 3; call; break; } \
        case 4: { const int n = 4; call; break; } \
        case 5: { const int n = 5; call; break; } \
        case 6: { const int n = 6; call; break; } \
        case 7: { const int n = 7; call; break; } \
        default: { const int n = 8; call; break; } \
    }

TARGET void avx512_int4(const uint8_t *block, const activations *x, int first, int rows, float result[][LANES]) {
    if (x->group == 32) ROWS(int4_block(block, x, first, n, 32, result))
    else if (x->group == 128) ROWS(int4_block(block, x, first, n, 128, result))
    else ROWS(int4_block(block, x, first, n, x->group, result))
}

TARGET void avx512_int8(const uint8_t *block, const activations *x, int first, int rows, float result[][LANES]) {
    ROWS(int8_block(block, x, first, n, result))
}

TARGET void avx512_int8_pair(const uint8_t *block, size_t next, const activations *x, int first, int rows,
                             float result[][LANES]) {
    ROWS(int8_pair(block, next, x, first, n, result))
}

/* `rounds` times 12 independent instructions; the sum is returned so that no compiler leaves them out. */
TARGET int32_t avx512_multiply(int rounds) {
    __m512i sums[12], weights = _mm512_set1_epi8(3), values = _mm512_set1_epi32(rounds);
    for (int i = 0; i < 12; i++) sums[i] = _mm512_set1_epi32(i);
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < 12; i++) sums[i] = _mm512_dpbusd_epi32(sums[i], weights, values);
    for (int i = 1; i < 12; i++) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
    return _mm512_reduce_add_epi32(sums[0]);
}
#endif
