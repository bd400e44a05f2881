/* Rows of logits on a CPU: see unisd/kernels/rows.py for what each function yields, unisd/kernels/series.py for `near_*`.
 *
 * Plain loops that the compiler vectorises; no intrinsics, no threads (the caller splits the rows). Compile without
 * -ffast-math: infinities and NaN must keep their meaning, and `exponential` rounds by adding a large number.
 * Every row is swept twice, in blocks that stay in the first-level cache; `gradient` is one more sweep without any
 * transcendental function, over what `pair` left in both buffers.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 1024
#define TERMS 8
#define ALWAYS static inline __attribute__((always_inline))

enum { NONE, FORWARD_KL, REVERSE_KL, JSD };

typedef struct {
    float scale;   /* multiplies the head's output */
    float softcap; /* 0: none */
} After;

typedef struct {
    int32_t divergence;
    float inverse_temperature;
    After student, teacher;
    float beta, rest;              /* weights of teacher and student in the mixture; they sum to 1 */
    float log_beta, log_rest;
    float near;                    /* |log s/p| below which the series are used */
    float near_value[TERMS];       /* D's summand / (p d^2) */
    float near_slope[TERMS];       /* U / (s d) */
} Spec;

typedef struct {
    float factor; /* what is left to multiply the row by: logits are factor * row */
    float maximum, inverse_sum;
    double log_sum; /* log-normaliser less the maximum */
    double entropy;
} Normaliser;

/* e^x for x <= 88, relative error 1e-7; exactly 0 below -87, NaN stays. */
ALWAYS float exponential(float x)
{
    float shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the sum's low bits are the nearest integer */
    float power = shifted - 12582912.0f;
    float r = x - power * 0.693145752f; /* ln 2 in two parts, the first with 12 free bits */
    r = r - power * 1.42860677e-6f;
    float q = 1.38144672e-3f;
    q = q * r + 8.36878084e-3f;
    q = q * r + 4.16683927e-2f;
    q = q * r + 0.166665196f;
    q = q * r + 0.499999940f;
    float value = 1.0f + (r + r * r * q);
    union { float f; uint32_t u; } bits = {shifted};
    bits.u = (bits.u + 127u) << 23;
    return x < -87.0f ? 0.0f : value * bits.f;
}

/* log(1 + low / high) for 0 <= low <= high, 0 where both are 0; relative error 1e-7. */
ALWAYS float log1p_ratio(float low, float high)
{
    float w = low / (high + high + low + 1e-37f); /* log(1 + x) = 2 atanh(x / (2 + x)) */
    float v = w * w;
    float q = 0.281915456f;
    q = q * v + 0.279576659f;
    q = q * v + 0.400251150f;
    q = q * v + 0.666663110f;
    return w * (2.0f + v * q);
}

ALWAYS float hyperbolic_tangent(float x)
{
    float size = x < 0.0f ? -x : x;
    size = size > 20.0f ? 20.0f : size;
    float v = size * size;
    float q = -5.90586802e-3f;
    q = q * v + 2.08053850e-2f;
    q = q * v - 5.37866838e-2f;
    q = q * v + 0.133319587f;
    q = q * v - 0.333332986f;
    float small = size + size * v * q;
    float large = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
    float value = size < 0.6f ? small : large;
    return x < 0.0f ? -value : value;
}

ALWAYS float polynomial(const float *coefficients, float x)
{
    float value = coefficients[TERMS - 1];
    for (int term = TERMS - 2; term >= 0; --term)
        value = value * x + coefficients[term];
    return value;
}

static void to_logits(float *x, int64_t count, After after, float inverse_temperature)
{
    float inside = after.scale / after.softcap, outside = after.softcap * inverse_temperature;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i)
        x[i] = outside * hyperbolic_tangent(inside * x[i]);
}

ALWAYS float block_maximum(const float *x, int64_t count)
{
    float maximum = -INFINITY;
#pragma omp simd reduction(max : maximum)
    for (int64_t i = 0; i < count; ++i)
        maximum = x[i] > maximum ? x[i] : maximum;
    return maximum;
}

/* Normalises a row, in one sweep that rescales whenever a block brings a new maximum; soft caps are applied in place.
 *
 * A plain factor is not: rounded logits would cost a peaked distribution half a digit, factor * row - maximum does not.
 */
static Normaliser normalise(float *row, int64_t num_columns, After after, float inverse_temperature)
{
    const int has_softcap = after.softcap != 0.0f;
    const float factor = has_softcap ? 1.0f : after.scale * inverse_temperature;
    float maximum = -INFINITY;
    double sum = 0.0, moment = 0.0; /* of e^y and y e^y, with y = logit - maximum */
    for (int64_t start = 0; start < num_columns; start += BLOCK) {
        int64_t count = num_columns - start < BLOCK ? num_columns - start : BLOCK;
        float *x = row + start;
        if (has_softcap)
            to_logits(x, count, after, inverse_temperature);
        float here = factor * block_maximum(x, count);
        if (here > maximum) {
            if (sum > 0.0) {
                double shift = (double)maximum - (double)here, shrink = exp(shift);
                moment = shrink == 0.0 ? 0.0 : shrink * (moment + sum * shift);
                sum *= shrink;
            }
            maximum = here;
        }
        if (maximum == -INFINITY)
            continue;
        float block_sum = 0.0f, block_moment = 0.0f;
#pragma omp simd reduction(+ : block_sum, block_moment)
        for (int64_t i = 0; i < count; ++i) {
            float y = factor * x[i] - maximum;
            y = y < -100.0f ? -100.0f : y; /* keeps 0 * inf out of the moment */
            float e = exponential(y);
            block_sum += e;
            block_moment += e * y;
        }
        sum += block_sum;
        moment += block_moment;
    }
    double log_sum = log(sum);
    return (Normaliser){factor, maximum, (float)(1.0 / sum), log_sum, log_sum - moment / sum};
}

ALWAYS float realised(const float *row, int64_t id, const Normaliser *of)
{
    return (float)((double)of->factor * (double)row[id] - (double)of->maximum - of->log_sum);
}

/* d logit / dz where the logit is `x`. */
ALWAYS float slope_at(float x, After after, float inverse_temperature)
{
    float factor = after.scale * inverse_temperature;
    if (after.softcap == 0.0f)
        return factor;
    float t = x / (after.softcap * inverse_temperature);
    return factor * (1.0f - t * t);
}

/* One block of a pair: adds to `value` (D) and `mean` (sum of U), and leaves dx/dz times s and U in the buffers.
 *
 * s, p: probabilities; d = log s/p; m = beta p + rest s. D sums non-negative terms whose first order is cancelled on
 * paper, because sum (s - p) = 0: then a rounding error common to all d of a row does not reach D. For the same reason
 * sum U is taken off the gradient of forward_kl as well, where it would be 0 in exact arithmetic.
 *   forward_kl   p (e^d - 1 - d)                    U = s - p
 *   reverse_kl   p - s + s d                        U = s d
 *   jsd          beta p log p/m + rest s log s/m    U = rest s log s/m
 */
ALWAYS void pair_block(float *student, float *teacher, int64_t count, const Spec *spec, const Normaliser *of_student,
                       const Normaliser *of_teacher, const int divergence, const int keeps, const int has_softcap,
                       float *value, float *mean)
{
    const Normaliser mine = *of_student, other = *of_teacher;
    const int is_alike = mine.factor == other.factor;
    const double log_sums = mine.log_sum - other.log_sum, maxima = (double)mine.maximum - (double)other.maximum;
    const float gap = (float)(is_alike ? maxima + log_sums : log_sums);
    const float beta = spec->beta, rest = spec->rest, log_beta = spec->log_beta, log_rest = spec->log_rest;
    const float near = spec->near;
    const After after = spec->student;
    const float inverse_temperature = spec->inverse_temperature;
    float near_value[TERMS], near_slope[TERMS];
    memcpy(near_value, spec->near_value, sizeof near_value);
    memcpy(near_slope, spec->near_slope, sizeof near_slope);
    float block_value = 0.0f, block_mean = 0.0f;
#pragma omp simd reduction(+ : block_value, block_mean)
    for (int64_t i = 0; i < count; ++i) {
        float x = student[i];
        float y = mine.factor * x - mine.maximum, y_teacher = other.factor * teacher[i] - other.maximum;
        float s = exponential(y) * mine.inverse_sum;
        float p = exponential(y_teacher) * other.inverse_sum;
        /* Neighbours are subtracted without rounding, which decides about d where student and teacher are close. */
        float d = (is_alike ? mine.factor * (x - teacher[i]) : y - y_teacher) - gap;
        float size = d < 0.0f ? -d : d;
        float far_value, far_slope;
        /* What is 0 times an infinite logarithm is 0. */
        if (divergence == FORWARD_KL) {
            float product = p == 0.0f ? 0.0f : p * d;
            far_slope = s - p;
            far_value = far_slope - product;
        } else if (divergence == REVERSE_KL) {
            far_slope = s == 0.0f ? 0.0f : s * d;
            far_value = (p - s) + far_slope;
        } else {
            float ours = rest * s, theirs = beta * p;
            float more = ours > theirs ? log1p_ratio(theirs, ours) : log1p_ratio(ours, theirs);
            float log_heavier = -((ours > theirs ? log_rest : log_beta) + more); /* log of s/m or of p/m */
            float log_ours = ours > theirs ? log_heavier : log_heavier + d;      /* log s/m */
            float log_theirs = ours > theirs ? log_heavier - d : log_heavier;    /* log p/m */
            far_slope = s == 0.0f ? 0.0f : ours * log_ours;
            far_value = far_slope + (p == 0.0f ? 0.0f : theirs * log_theirs);
        }
        float v = size < near ? p * (d * d) * polynomial(near_value, d) : far_value;
        float u = size < near ? s * d * polynomial(near_slope, d) : far_slope;
        block_value += v;
        block_mean += u;
        if (keeps) {
            float slope = after.scale * inverse_temperature;
            if (has_softcap) {
                float t = x / (after.softcap * inverse_temperature);
                slope = slope * (1.0f - t * t);
            }
            student[i] = slope * s;
            teacher[i] = slope * u;
        }
    }
    *value += block_value;
    *mean += block_mean;
}

ALWAYS void pair_row(float *student, float *teacher, int64_t num_columns, const Spec *spec,
                     const Normaliser *of_student, const Normaliser *of_teacher, const int divergence,
                     const int keeps, const int has_softcap, double *value, double *mean)
{
    *value = *mean = 0.0;
    for (int64_t start = 0; start < num_columns; start += BLOCK) {
        int64_t count = num_columns - start < BLOCK ? num_columns - start : BLOCK;
        float block_value = 0.0f, block_mean = 0.0f;
        pair_block(student + start, teacher + start, count, spec, of_student, of_teacher, divergence, keeps,
                   has_softcap, &block_value, &block_mean);
        *value += block_value;
        *mean += block_mean;
    }
}

/* The same for a student alone: its buffer keeps dx/dz times s. */
static void keep_probabilities(float *student, int64_t num_columns, const Spec *spec, const Normaliser *of)
{
    const After after = spec->student;
    const float inverse_temperature = spec->inverse_temperature;
#pragma omp simd
    for (int64_t i = 0; i < num_columns; ++i) {
        float x = student[i];
        student[i] = slope_at(x, after, inverse_temperature) * (exponential(of->factor * x - of->maximum) * of->inverse_sum);
    }
}

#define PAIR(divergence, keeps, has_softcap) \
    pair_row(student, teacher, num_columns, spec, of_student, of_teacher, divergence, keeps, has_softcap, value, mean)
#define PAIR_OF(divergence)              \
    do {                                 \
        if (!keeps)                      \
            PAIR(divergence, 0, 0);      \
        else if (spec->student.softcap == 0.0f) \
            PAIR(divergence, 1, 0);      \
        else                             \
            PAIR(divergence, 1, 1);      \
    } while (0)

static void pair_any(float *student, float *teacher, int64_t num_columns, const Spec *spec,
                     const Normaliser *of_student, const Normaliser *of_teacher, int keeps, double *value, double *mean)
{
    if (spec->divergence == FORWARD_KL)
        PAIR_OF(FORWARD_KL);
    else if (spec->divergence == REVERSE_KL)
        PAIR_OF(REVERSE_KL);
    else
        PAIR_OF(JSD);
}

void unisd_statistics(float *logits, int64_t num_rows, int64_t num_columns, int64_t stride, const int64_t *ids,
                      const After *after, float inverse_temperature, float *logp, float *entropy)
{
    for (int64_t i = 0; i < num_rows; ++i) {
        float *row = logits + i * stride;
        Normaliser of = normalise(row, num_columns, *after, inverse_temperature);
        logp[i] = realised(row, ids[i], &of);
        entropy[i] = (float)of.entropy;
    }
}

/* `context`, two numbers a row: the sum of U, and dx/dz at the realised token. */
void unisd_pair(float *student_logits, float *teacher_logits, int64_t num_rows, int64_t num_columns,
                int64_t student_stride, int64_t teacher_stride, const int64_t *ids, const Spec *spec, int32_t keeps,
                float *divergence, float *student_logp, float *teacher_logp, float *student_entropy,
                float *teacher_entropy, float *context)
{
    for (int64_t i = 0; i < num_rows; ++i) {
        float *student = student_logits + i * student_stride;
        Normaliser of_student = normalise(student, num_columns, spec->student, spec->inverse_temperature);
        student_logp[i] = realised(student, ids[i], &of_student);
        student_entropy[i] = (float)of_student.entropy;
        context[2 * i] = 0.0f;
        context[2 * i + 1] = slope_at(student[ids[i]], spec->student, spec->inverse_temperature);
        if (spec->divergence == NONE) {
            if (keeps)
                keep_probabilities(student, num_columns, spec, &of_student);
            continue;
        }
        float *teacher = teacher_logits + i * teacher_stride;
        Normaliser of_teacher = normalise(teacher, num_columns, spec->teacher, spec->inverse_temperature);
        teacher_logp[i] = realised(teacher, ids[i], &of_teacher);
        teacher_entropy[i] = (float)of_teacher.entropy;
        double value, mean;
        pair_any(student, teacher, num_columns, spec, &of_student, &of_teacher, keeps, &value, &mean);
        divergence[i] = (float)value;
        context[2 * i] = (float)mean;
    }
}

/* dD/dz = dx/dz (U - s sum U), dlogp/dz = dx/dz (1 at the realised token - s); a null weight is 0. */
void unisd_gradient(const float *student_parts, const float *teacher_parts, int64_t num_rows, int64_t num_columns,
                    int64_t student_stride, int64_t teacher_stride, const int64_t *ids, const float *context,
                    const float *divergence_weight, const float *logp_weight, float *out, int64_t out_stride)
{
    for (int64_t i = 0; i < num_rows; ++i) {
        const float *student = student_parts + i * student_stride, *teacher = teacher_parts + i * teacher_stride;
        float *row = out + i * out_stride;
        float of_divergence = divergence_weight ? divergence_weight[i] : 0.0f;
        float of_logp = logp_weight ? logp_weight[i] : 0.0f;
        float of_student = -of_divergence * context[2 * i] - of_logp;
        if (of_divergence == 0.0f && of_logp == 0.0f) {
            /* A token without weight has no gradient, however infinite its divergence. */
            memset(row, 0, (size_t)num_columns * sizeof *row);
            continue;
        }
        /* `out` may be either input: each element is read before it is written. */
        if (of_divergence == 0.0f) {
#pragma omp simd
            for (int64_t j = 0; j < num_columns; ++j)
                row[j] = of_student * student[j];
        } else {
#pragma omp simd
            for (int64_t j = 0; j < num_columns; ++j)
                row[j] = of_divergence * teacher[j] + of_student * student[j];
        }
        row[ids[i]] += of_logp * context[2 * i + 1];
    }
}
