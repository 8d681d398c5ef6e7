/* A baseline for benchmarks: the decoder of jdance/pose/decode.py in sequential C, for one image.
 * Built by pose_baselines.py. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { JOINTS = 18, LIMBS = 19, TREE = 17, MAPS = 19, FIELDS = 38, MAX_PEAKS = 40, CELLS = 64 };

typedef struct { float x, y, height, score; } Peak;
typedef struct { float score; int start, end; } Limb;
typedef struct { float total; int count; int of[JOINTS]; } Person; /* 1 + index of the peak, or 0 */

typedef struct {
    int max_peaks; /* per joint */
    int people, samples, min_samples, min_joints, stride;
    float smoothing, heat_threshold, sample_threshold, min_score;
} Config;

static int compare_peaks(const void *a, const void *b) {
    float x = ((const Peak *)a)->height, y = ((const Peak *)b)->height;
    return (x < y) - (x > y);
}

static int compare_limbs(const void *a, const void *b) {
    const Limb *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return x->start != y->start ? x->start - y->start : x->end - y->end;
}

static int compare_people(const void *a, const void *b) {
    const Person *x = a, *y = b;
    float s = x->total / x->count, t = y->total / y->count;
    return (s < t) - (s > t);
}

/* Weights [size, size] of a Gaussian; each row sums to 1. */
static void gaussian(int size, float sigma, float *weights) {
    for (int i = 0; i < size; i++) {
        float sum = 0;
        for (int j = 0; j < size; j++) {
            float d = (i - j) / sigma;
            sum += weights[i * size + j] = expf(-0.5f * d * d);
        }
        for (int j = 0; j < size; j++) weights[i * size + j] /= sum;
    }
}

/* Sub-pixel position of a peak by a parabola through the logarithms; `step` is the stride. */
static float refined(const float *line, int step, int size, int at) {
    int c = at < 1 ? 1 : at > size - 2 ? size - 2 : at;
    float low = 0.01f * line[at * step], v[3];
    for (int i = 0; i < 3; i++) {
        float value = line[(c - 1 + i) * step];
        v[i] = logf(value > low ? value : low);
    }
    float bend = v[0] - 2 * v[1] + v[2];
    float top = c + (bend < 0 ? 0.5f * (v[0] - v[2]) / bend : 0);
    return top < at - 0.5f ? at - 0.5f : top > at + 0.5f ? at + 0.5f : top;
}

static int find_peaks(const float *heat, int h, int w, int joint, const float *down,
                      const float *across, const Config *c, Peak *peaks) {
    static _Thread_local float half[CELLS * CELLS], smooth[CELLS * CELLS];
    static _Thread_local Peak all[CELLS * CELLS];
    /* Weights beyond 5 sigma are negligible. */
    int reach = (int)ceilf(5 * c->smoothing), count = 0;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            float sum = 0;
            for (int k = x - reach < 0 ? 0 : x - reach; k <= x + reach && k < w; k++)
                sum += across[x * w + k] * heat[(y * w + k) * MAPS + joint];
            half[y * w + x] = sum;
        }
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            float sum = 0;
            for (int k = y - reach < 0 ? 0 : y - reach; k <= y + reach && k < h; k++)
                sum += down[y * h + k] * half[k * w + x];
            smooth[y * w + x] = sum;
        }
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            float value = smooth[y * w + x], score = heat[(y * w + x) * MAPS + joint];
            if (value <= c->heat_threshold || score <= 0) continue;
            int peak = 1;
            for (int b = y - 1; b <= y + 1 && peak; b++)
                for (int a = x - 1; a <= x + 1 && peak; a++) {
                    if (a < 0 || b < 0 || a >= w || b >= h || (a == x && b == y)) continue;
                    float other = smooth[b * w + a];
                    peak = b < y || (b == y && a < x) ? value > other : value >= other;
                }
            if (!peak) continue;
            Peak found = {refined(smooth + y * w, 1, w, x), refined(smooth + x, w, h, y), value, score};
            all[count++] = found;
        }
    qsort(all, count, sizeof(Peak), compare_peaks);
    if (count > c->max_peaks) count = c->max_peaks;
    memcpy(peaks, all, count * sizeof(Peak));
    return count;
}

/* The score of a limb, or 0 if there is none. */
static float limb_score(const Peak *a, const Peak *b, const float *paf, int h, int w,
                        const int *channels, const Config *c) {
    float vx = b->x - a->x, vy = b->y - a->y, length = sqrtf(vx * vx + vy * vy), sum = 0;
    int enough = 0;
    if (length == 0) return 0;
    for (int s = 0; s < c->samples; s++) {
        float t = (s + 0.5f) / c->samples, x = a->x + t * vx, y = a->y + t * vy, along = 0;
        x = x < 0 ? 0 : x > w - 1 ? w - 1 : x;
        y = y < 0 ? 0 : y > h - 1 ? h - 1 : y;
        int left = (int)x < w - 2 ? (int)x : w - 2, top = (int)y < h - 2 ? (int)y : h - 2;
        float dx = x - left, dy = y - top;
        const float *p = paf + (top * w + left) * FIELDS;
        for (int axis = 0; axis < 2; axis++) {
            const float *q = p + channels[axis];
            float upper = (1 - dx) * q[0] + dx * q[FIELDS];
            float lower = (1 - dx) * q[w * FIELDS] + dx * q[(w + 1) * FIELDS];
            along += ((1 - dy) * upper + dy * lower) * (axis ? vy : vx);
        }
        along /= length;
        sum += along;
        enough += along > c->sample_threshold;
    }
    if (enough < c->min_samples) return 0;
    float over = 0.5f * h / length - 1, score = sum / c->samples + (over < 0 ? over : 0);
    return score > 0 ? score : 0;
}

/* heat [h, w, 19], paf [h, w, 38], limbs [19, 2], channels [19, 2] -> keypoints [people, 18, 3], the
 * best person first; returns their number. h and w are at most 64. */
int decode(const float *heat, const float *paf, int h, int w, const int *limbs, const int *channels,
           const Config *c, float *keypoints) {
    static _Thread_local float down[CELLS * CELLS], across[CELLS * CELLS];
    static _Thread_local Limb found[MAX_PEAKS * MAX_PEAKS];
    static _Thread_local Person people[JOINTS * MAX_PEAKS];
    Peak peaks[JOINTS][MAX_PEAKS];
    int counts[JOINTS], owner[JOINTS][MAX_PEAKS], number = 0;
    gaussian(h, c->smoothing, down);
    gaussian(w, c->smoothing, across);
    for (int j = 0; j < JOINTS; j++) {
        counts[j] = find_peaks(heat, h, w, j, down, across, c, peaks[j]);
        for (int i = 0; i < counts[j]; i++) { /* initially, every peak is a person */
            memset(&people[number], 0, sizeof(Person));
            people[number].total = peaks[j][i].score;
            people[number].count = 1;
            people[number].of[j] = i + 1;
            owner[j][i] = number++;
        }
    }
    for (int l = 0; l < LIMBS; l++) {
        int first = limbs[2 * l], second = limbs[2 * l + 1], total = 0;
        char used[2][MAX_PEAKS] = {{0}};
        for (int i = 0; i < counts[first]; i++)
            for (int j = 0; j < counts[second]; j++) {
                float score = limb_score(&peaks[first][i], &peaks[second][j], paf, h, w,
                                         channels + 2 * l, c);
                if (score > 0) found[total++] = (Limb){score, i, j};
            }
        qsort(found, total, sizeof(Limb), compare_limbs);
        for (int n = 0; n < total; n++) {
            Limb limb = found[n];
            if (used[0][limb.start] || used[1][limb.end]) continue;
            used[0][limb.start] = used[1][limb.end] = 1;
            int a = owner[first][limb.start], b = owner[second][limb.end], shared = a == b;
            for (int j = 0; j < JOINTS; j++) shared |= people[a].of[j] && people[b].of[j];
            if (shared || (l >= TREE && people[a].count < 2)) continue;
            for (int j = 0; j < JOINTS; j++)
                if (people[b].of[j]) {
                    people[a].of[j] = people[b].of[j];
                    owner[j][people[b].of[j] - 1] = a;
                }
            people[a].count += people[b].count;
            people[a].total += people[b].total + limb.score;
            people[b].count = 0;
        }
    }
    int kept = 0;
    for (int n = 0; n < number; n++)
        if (people[n].count >= c->min_joints && people[n].total / people[n].count >= c->min_score)
            people[kept++] = people[n];
    qsort(people, kept, sizeof(Person), compare_people);
    if (kept > c->people) kept = c->people;
    memset(keypoints, 0, sizeof(float) * c->people * JOINTS * 3);
    for (int n = 0; n < kept; n++)
        for (int j = 0; j < JOINTS; j++)
            if (people[n].of[j]) {
                const Peak *p = &peaks[j][people[n].of[j] - 1];
                float *out = keypoints + (n * JOINTS + j) * 3;
                out[0] = c->stride * p->x + (c->stride - 1) / 2.0f;
                out[1] = c->stride * p->y + (c->stride - 1) / 2.0f;
                out[2] = p->score;
            }
    return kept;
}
