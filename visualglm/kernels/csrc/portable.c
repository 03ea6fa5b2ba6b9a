/* portable: blocks of 16 outputs in plain loops, for any processor; the reference of the other paths. */
#include "kernel.h"

static void add_line(const uint8_t *line, int shift, int mask, const int8_t *x, int32_t sums[LANES]) {
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) sums[lane] += ((line[4 * lane + i] >> shift) & mask) * x[i];
}

void portable_int4(const uint8_t *block, const activations *x, int first, int rows, float result[][LANES]) {
    int lines = x->group / 8;
    size_t pair = LINE + 2 * (size_t)lines * LINE;
    for (int row = 0; row < rows; row++) {
        const int8_t *values = x->values + (size_t)(first + row) * x->inputs;
        for (int lane = 0; lane < LANES; lane++) result[row][lane] = 0;
        for (int g = 0; g < x->groups; g++) {
            const uint8_t *head = block + (size_t)(g / 2) * pair;
            const uint8_t *line = head + LINE + (size_t)(g % 2) * lines * LINE;
            const uint16_t *scales = (const uint16_t *)head + (g % 2) * LANES;
            size_t at = (size_t)(first + row) * x->groups + g;
            int32_t sums[LANES];
            for (int lane = 0; lane < LANES; lane++) sums[lane] = x->corrections[at];
            for (int i = 0; i < lines; i++, line += LINE) {
                add_line(line, 0, 15, values + g * x->group + 8 * i, sums);
                add_line(line, 4, 15, values + g * x->group + 8 * i + 4, sums);
            }
            for (int lane = 0; lane < LANES; lane++)
                result[row][lane] += (float)sums[lane] * (from_float16(scales[lane]) * x->scales[at]);
        }
    }
}

void portable_int8(const uint8_t *block, const activations *x, int first, int rows, float result[][LANES]) {
    for (int row = 0; row < rows; row++) {
        const int8_t *values = x->values + (size_t)(first + row) * x->inputs;
        const uint8_t *line = block;
        for (int lane = 0; lane < LANES; lane++) result[row][lane] = 0;
        for (int g = 0; g < x->groups; g++) {
            size_t at = (size_t)(first + row) * x->groups + g;
            int32_t sums[LANES];
            for (int lane = 0; lane < LANES; lane++) sums[lane] = x->corrections[at];
            for (int i = 0; i < GROUP8 / 4; i++, line += LINE) add_line(line, 0, 255, values + g * GROUP8 + 4 * i, sums);
            for (int lane = 0; lane < LANES; lane++) result[row][lane] += (float)sums[lane] * x->scales[at];
        }
    }
}
