/* quantized_linear: y = x W^T for arranged int4 and int8 weights, any number of rows; called through ctypes.
 *
 * Each thread takes pieces of a few blocks of 16 outputs, whichever are next; an output is summed by one thread in one
 * order, so the bits do not depend on the number of threads.
 */
#include <stdlib.h>

#include "kernel.h"

void quantize_activations(const void *source, int dtype, int inputs, int offset, const activations *a, int row);

typedef struct {
    const void *input;
    void *output;
    const uint8_t *weight;
    const float *row_scales; /* of int8 weights; NULL for int4, whose scales stand among the weights */
    int inputs, outputs, dtype, offset, piece, next_row, next_block;
    size_t block_bytes;
    block_kernel kernel;
    pair_kernel pair; /* NULL where blocks are faster alone */
    activations x;
} job;

static void quantize_rows(void *data) {
    job *j = data;
    for (int row; (row = next_piece(&j->next_row)) < j->x.rows;)
        quantize_activations(j->input, j->dtype, j->inputs, j->offset, &j->x, row);
}

static void store_block(const job *j, int block, int first, int rows, float result[][LANES]) {
    int from = block * LANES, count = j->outputs - from < LANES ? j->outputs - from : LANES;
    for (int row = 0; row < rows; row++)
        for (int lane = 0; lane < count; lane++) {
            float scale = j->row_scales ? j->row_scales[from + lane] : 1.0f;
            store_number(j->output, (size_t)(first + row) * j->outputs + from + lane, j->dtype, result[row][lane] * scale);
        }
}

static void multiply_blocks(void *data) {
    job *j = data;
    int blocks = (j->outputs + LANES - 1) / LANES;
    float result[PAIR][LANES];
    for (int from; (from = next_piece(&j->next_block) * j->piece) < blocks;) {
        int to = from + j->piece < blocks ? from + j->piece : blocks;
        for (int block = from, step; block < to; block += step) {
            const uint8_t *weight = j->weight + block * j->block_bytes;
            step = j->pair && block + 1 < to ? 2 : 1;
            for (int first = 0; first < j->x.rows; first += TILE) {
                int rows = j->x.rows - first < TILE ? j->x.rows - first : TILE;
                if (step == 2) j->pair(weight, j->block_bytes, &j->x, first, rows, result);
                else j->kernel(weight, &j->x, first, rows, result);
                for (int b = 0; b < step; b++) store_block(j, block + b, first, rows, result + b * TILE);
            }
        }
    }
}

static block_kernel choose(int bits) {
#if HAVE_X86
    if (kernel_path() == PATH_AVX512) return bits == 4 ? avx512_int4 : avx512_int8;
    if (kernel_path() == PATH_AVX2) return bits == 4 ? avx2_int4 : avx2_int8;
#endif
    return bits == 4 ? portable_int4 : portable_int8;
}

static pair_kernel choose_pair(int bits, int rows) {
#if HAVE_X86
    if (kernel_path() == PATH_AVX512 && bits == 8 && rows > 2) return avx512_int8_pair;
#endif
    return NULL;
}

static int padded(int number, int multiple) { return (number + multiple - 1) / multiple * multiple; }

/* y [rows, outputs] = x [rows, inputs] times arranged weights; both of `dtype`. Returns 0, or 1 without memory. */
static int linear(job *j, int bits, int rows, int group, int threads) {
    int width = padded(j->inputs, bits == 4 ? 2 * group : group);
    size_t groups = (size_t)rows * (width / group);
    char *memory = malloc(8 * groups + (size_t)rows * width + 1);
    if (!memory) return 1;
    j->x = (activations){rows, width, group, width / group, (int8_t *)(memory + 8 * groups), (float *)memory,
                         (int32_t *)(memory + 4 * groups)};
    int signed_weights = bits == 8 && kernel_path() == PATH_AVX2;
    j->offset = bits == 4 ? 8 : signed_weights ? 0 : 128;
    j->kernel = choose(bits);
    j->pair = choose_pair(bits, rows);
    int blocks = padded(j->outputs, LANES) / LANES;
    j->piece = blocks / (8 * threads) > 1 ? blocks / (8 * threads) : 1;
    run_parallel(quantize_rows, j, rows < TILE ? 1 : threads);
    run_parallel(multiply_blocks, j, threads);
    free(memory);
    return 0;
}

size_t visualglm_int4_bytes(int outputs, int inputs, int group) {
    return (size_t)(padded(outputs, LANES) / LANES) * (padded(inputs, 2 * group) / (2 * group)) * (LINE + group / 4 * LINE);
}

size_t visualglm_int8_bytes(int outputs, int inputs) {
    return (size_t)padded(outputs, LANES) * padded(inputs, GROUP8);
}

int visualglm_linear_int4(const void *input, const uint8_t *weight, void *output, int dtype, int rows, int inputs,
                          int outputs, int group, int threads) {
    job j = {.input = input, .output = output, .weight = weight, .dtype = dtype, .inputs = inputs, .outputs = outputs};
    j.block_bytes = visualglm_int4_bytes(LANES, inputs, group);
    return linear(&j, 4, rows, group, threads);
}

int visualglm_linear_int8(const void *input, const uint8_t *weight, const float *scales, void *output, int dtype,
                          int rows, int inputs, int outputs, int threads) {
    job j = {.input = input, .output = output, .weight = weight, .row_scales = scales, .dtype = dtype,
             .inputs = inputs, .outputs = outputs};
    j.block_bytes = visualglm_int8_bytes(LANES, inputs);
    return linear(&j, 8, rows, GROUP8, threads);
}
