/* avx2: blocks of 16 outputs as two halves of 8, with `vpmaddubsw` and `vpmaddwd`.
 *
 * `vpmaddubsw` adds two products into 16 bits and saturates: 4-bit weights (at most 15 * 127 * 2 = 3810) leave room for
 * eight such sums; 8-bit ones are made signed and multiplied as |weight| * (activation with weight's sign), at most
 * 127 * 127 * 2 = 32258, so the stored 128 is taken off before and not by the correction.
 */
#include "kernel.h"
#if HAVE_X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define INLINE TARGET static inline __attribute__((always_inline))

INLINE __m256i broadcast(const int8_t *p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}

INLINE __m256i widen(__m256i sixteen) { return _mm256_madd_epi16(sixteen, _mm256_set1_epi16(1)); }

INLINE void int4_half(const uint8_t *block, const activations *x, int first, const int rows, float result[][LANES],
                      const int half) {
    const __m256i mask = _mm256_set1_epi8(15);
    int lines = x->group / 8;
    __m256 sums[4];
    for (int row = 0; row < rows; row++) sums[row] = _mm256_setzero_ps();
    for (int g = 0; g < x->groups; g++) {
        const uint8_t *head = block + (size_t)(g / 2) * (LINE + 2 * (size_t)lines * LINE);
        const uint8_t *line = head + LINE + (size_t)(g % 2) * lines * LINE + 32 * half;
        __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(head + 32 * (g % 2) + 16 * half)));
        __m256i totals[4], sixteen[4];
        for (int row = 0; row < rows; row++) {
            totals[row] = _mm256_set1_epi32(x->corrections[(size_t)(first + row) * x->groups + g]);
            sixteen[row] = _mm256_setzero_si256();
        }
        for (int i = 0; i < lines; i++) {
            __m256i both = _mm256_loadu_si256((const __m256i *)(line + LINE * i));
            __m256i low = _mm256_and_si256(both, mask), high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
            for (int row = 0; row < rows; row++) {
                const int8_t *v = x->values + (size_t)(first + row) * x->inputs + g * x->group + 8 * i;
                __m256i two = _mm256_add_epi16(_mm256_maddubs_epi16(low, broadcast(v)),
                                               _mm256_maddubs_epi16(high, broadcast(v + 4)));
                sixteen[row] = _mm256_add_epi16(sixteen[row], two);
                if (i % 4 == 3 || i == lines - 1) { /* eight sums of two fill the 16 bits */
                    totals[row] = _mm256_add_epi32(totals[row], widen(sixteen[row]));
                    sixteen[row] = _mm256_setzero_si256();
                }
            }
        }
        for (int row = 0; row < rows; row++) {
            __m256 both = _mm256_mul_ps(scale, _mm256_set1_ps(x->scales[(size_t)(first + row) * x->groups + g]));
            sums[row] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(totals[row]), both, sums[row]);
        }
    }
    for (int row = 0; row < rows; row++) _mm256_storeu_ps(result[row] + 8 * half, sums[row]);
}

INLINE void int8_half(const uint8_t *block, const activations *x, int first, const int rows, float result[][LANES],
                      const int half) {
    const __m256i offset = _mm256_set1_epi8((char)128);
    const uint8_t *line = block + 32 * half;
    __m256 sums[4];
    for (int row = 0; row < rows; row++) sums[row] = _mm256_setzero_ps();
    for (int g = 0; g < x->groups; g++) {
        __m256i totals[4];
        for (int row = 0; row < rows; row++) totals[row] = _mm256_setzero_si256();
        for (int i = 0; i < GROUP8 / 4; i++, line += LINE) {
            __m256i weight = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)line), offset);
            __m256i size = _mm256_abs_epi8(weight);
            for (int row = 0; row < rows; row++) {
                const int8_t *v = x->values + (size_t)(first + row) * x->inputs + g * GROUP8 + 4 * i;
                __m256i products = _mm256_maddubs_epi16(size, _mm256_sign_epi8(broadcast(v), weight));
                totals[row] = _mm256_add_epi32(totals[row], widen(products));
            }
        }
        for (int row = 0; row < rows; row++) {
            __m256 scale = _mm256_set1_ps(x->scales[(size_t)(first + row) * x->groups + g]);
            sums[row] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(totals[row]), scale, sums[row]);
        }
    }
    for (int row = 0; row < rows; row++) _mm256_storeu_ps(result[row] + 8 * half, sums[row]);
}

#define ROWS(call) \
    switch (rows - done) { \
        case 1: { const int n = 1; call; break; } \
        case 2: { const int n = 2; call; break; } \
        case 3: { const int n = 3; call; break; } \
        default: { const int n = 4; call; break; } \
    }

TARGET void avx2_int4(const uint8_t *block, const activations *x, int first, int rows, float result[][LANES]) {
    for (int done = 0; done < rows; done += 4)
        for (int half = 0; half < 2; half++) ROWS(int4_half(block, x, first + done, n, result + done, half))
}

TARGET void avx2_int8(const uint8_t *block, const activations *x, int first, int rows, float result[][LANES]) {
    for (int done = 0; done < rows; done += 4)
        for (int half = 0; half < 2; half++) ROWS(int8_half(block, x, first + done, n, result + done, half))
}
#endif
