/* bfloat16: y = x W^T + b for a few rows, with stored weights [outputs, inputs], summed in float32.
 *
 * A decoding step reads every weight once: the loop runs along memory, so that it keeps pace with it. Every output is
 * summed in one order, whatever the number of rows or threads. Worth its while with AVX512 only: with less, torch's own
 * keeps pace with memory for one row.
 */
#include <stdlib.h>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast") /* products and sums in one instruction: several rows are bound by them */
#endif
#include "vectors.h"

#define ABREAST 4  /* rows, and outputs, whose products share what is loaded into registers */
#define AHEAD 512 /* bytes that the software prefetch runs ahead of the loads; twice as many cost a sixth here */

typedef struct {
    const float *input; /* [rows, inputs] */
    const uint16_t *weight, *bias;
    uint16_t *output; /* [rows, outputs] */
    int rows, inputs, outputs, piece, next;
} product;

/* Where a weight's stream will be: further on in its row, or at the same place of the next outputs. */
INLINE const char *ahead(const uint16_t *weight, int i, int inputs, const int outputs) {
    size_t row = (size_t)inputs * sizeof *weight, at = i * sizeof *weight + AHEAD;
    return (const char *)weight + at + (at < row ? 0 : (outputs - 1) * row);
}

INLINE void some_outputs(const product *p, int from, int first, const int outputs, const int rows) {
    const uint16_t *weight = p->weight + (size_t)from * p->inputs;
    const float *input = p->input + (size_t)first * p->inputs;
    size_t inputs = p->inputs;
    vector sums[ABREAST][ABREAST] = {{{0}}}, w[ABREAST], x;
    int i = 0;
    for (; i + LANES <= p->inputs; i += LANES) {
        for (int output = 0; output < outputs; output++) {
            if (i % (2 * LANES) == 0) __builtin_prefetch(ahead(weight + output * inputs, i, p->inputs, outputs));
            load_vector(&w[output], weight, output * inputs + i, BFLOAT16);
        }
        for (int row = 0; row < rows; row++) {
            load_vector(&x, input, row * inputs + i, FLOAT32);
            for (int output = 0; output < outputs; output++) sums[row][output] += w[output] * x;
        }
    }
    for (int output = 0; output < outputs; output++)
        for (int row = 0; row < rows; row++) {
            float sum = sum_of(&sums[row][output]);
            for (size_t k = i; k < inputs; k++) sum += from_bfloat16(weight[output * inputs + k]) * input[row * inputs + k];
            sum += p->bias ? from_bfloat16(p->bias[from + output]) : 0;
            p->output[(size_t)(first + row) * p->outputs + from + output] = to_bfloat16(sum);
        }
}

INLINE void all_rows(const product *p, int from, const int outputs) {
    for (int first = 0; first < p->rows; first += ABREAST) {
        int rows = p->rows - first;
        if (rows == 1) some_outputs(p, from, first, outputs, 1);
        else if (rows == 2) some_outputs(p, from, first, outputs, 2);
        else if (rows == 3) some_outputs(p, from, first, outputs, 3);
        else some_outputs(p, from, first, outputs, ABREAST);
    }
}

INLINE void outputs_of(const product *p, int from, int to) {
    for (; from + ABREAST <= to; from += ABREAST) all_rows(p, from, ABREAST);
    for (; from < to; from++) all_rows(p, from, 1);
}

#if HAVE_X86
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512"))) static void outputs_avx512(
    const product *p, int from, int to) {
    outputs_of(p, from, to);
}
#endif

static void multiply_pieces(void *data) {
    product *p = data;
    for (int from; (from = next_piece(&p->next) * p->piece) < p->outputs;) {
        int to = from + p->piece < p->outputs ? from + p->piece : p->outputs;
#if HAVE_X86
        if (kernel_path() == PATH_AVX512) { outputs_avx512(p, from, to); continue; }
#endif
        outputs_of(p, from, to);
    }
}

/* y [rows, outputs] = x [rows, inputs] times weight [outputs, inputs], plus bias [outputs] or NULL; all bfloat16.
 * Returns 0, or 1 without memory. */
int visualglm_linear_bfloat16(const uint16_t *input, const uint16_t *weight, const uint16_t *bias, uint16_t *output,
                              int rows, int inputs, int outputs, int threads) {
    size_t count = (size_t)rows * inputs;
    float *numbers = malloc(sizeof(float) * count + 1);
    if (!numbers) return 1;
    for (size_t i = 0; i < count; i++) numbers[i] = from_bfloat16(input[i]);
    int piece = outputs / (16 * threads);
    product p = {numbers, weight, bias, output, rows, inputs, outputs, piece > 1 ? piece : 1, 0};
    run_parallel(multiply_pieces, &p, threads);
    free(numbers);
    return 0;
}
