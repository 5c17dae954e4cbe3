// Sparse attention over lists of keys on a CPU, float32: select(), forward(), backward().
//
// A list says which keys a query keeps: `slots` columns per query, -1 where there are fewer. select() makes the
// lists of the k highest (or lowest) scores without ever holding more than a strip of them; forward() and
// backward() work on any lists. The caller (__init__.py) owns all memory and has checked all shapes.
//
// Written with GCC/Clang vector extensions, so one source serves AVX-512, AVX2 and NEON.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE = 12; // 24 of 32 registers accumulate
#elif defined(__AVX2__)
constexpr int LANES = 8, TILE = 6; // 12 of 16
#else
constexpr int LANES = 4, TILE = 6; // 12 of 32 (NEON)
#endif
constexpr int PANEL = 2 * LANES;  // keys the product takes at a time
constexpr int64_t STRIP = 4096;   // keys scored before the best of them are picked: a tile's strip stays in L2
constexpr float LOWEST = std::numeric_limits<float>::lowest();
constexpr float EXCLUDED = -std::numeric_limits<float>::infinity();

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline Vector load(const float *at) { return *(const Vector *)at; }
static inline void store(float *at, Vector x) { *(Vector *)at = x; }
static inline Vector all(float x) { return Vector{} + x; }

// The second where the first is NaN.
static inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

static inline float sum(Vector x) {
    float total = 0;
    for (int l = 0; l < LANES; l++) total += x[l];
    return total;
}

// e^x to about one unit in the last place; 0 below the smallest normal number, NaN for NaN.
static inline Vector exponential(Vector x) {
    const Vector magic = all(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer
    Vector clipped = x > 88.0f ? all(88.0f) : x;
    clipped = clipped < -87.3f ? all(-87.3f) : clipped;
    Vector n = (clipped * 1.44269504088896341f + magic) - magic;
    Vector r = clipped - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    Vector p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
    Vector power;
    std::memcpy(&power, &exponent, sizeof power);
    return x < -87.3f ? Vector{} : p * power;
}

extern "C" {
// A float tensor [batch, heads, rows, width] whose last stride is 1; strides in elements, 0 where broadcast.
struct Rows {
    float *data;
    int64_t batch, head, row;
};
// A tensor broadcast to [batch, heads, queries, keys], or null.
struct Plane {
    const void *data;
    int64_t batch, head, row, column;
};
struct Problem {
    int64_t batch, heads, kv_heads, queries, keys, head_dim, value_dim, slots, threads;
    Rows query, key, value;
    Plane mask;           // bool: true where a query may see a key
    Plane bias;           // float32, added to the scores that select() compares
    const float *list_bias; // [batch, heads, queries, slots]: the same at the lists, or null
    const int64_t *limit; // [queries]: last column a query may see, or null
    const float *sinks;   // [heads], or null
    const float *dropout; // [batch, heads, queries, slots]: 0 or 1 / (1 - p), or null
    float scale;
    int32_t sign; // select(): 1 keeps the highest scores, -1 the lowest
    struct {
        int32_t *data; // [.., .., queries, slots]
        int64_t batch, head;
    } index;
    float *weights; // [batch, heads, queries, slots]
    Rows output, grad_output, grad_query, grad_key, grad_value;
    float *grad_scores; // [batch, heads, queries, slots], before the scale, or null
    float *delta;       // [batch, heads, queries]: sum of weights times their gradients, or null
};
}

static inline float *at(const Rows &t, int64_t b, int64_t h, int64_t i) {
    return t.data + b * t.batch + h * t.head + i * t.row;
}

template <class T> static inline const T *at(const Plane &t, int64_t b, int64_t h, int64_t i) {
    return (const T *)t.data + b * t.batch + h * t.head + i * t.row;
}

// ------------------------------------------------------------------ selection

// Candidates of one query, best first when sorted: a score's bits, made to sort as integers, above its column.
struct Candidates {
    std::vector<uint64_t> items;
    float bound; // no score below it can be among the k best
    size_t k;

    static uint64_t pack(float score, int64_t column) {
        uint32_t bits;
        score += 0.0f; // -0 ties with 0
        std::memcpy(&bits, &score, sizeof bits);
        bits = score != score ? ~0u : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
        return (uint64_t)bits << 32 | (uint32_t)column;
    }
    static float score(uint64_t item) {
        uint32_t bits = item >> 32;
        bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
        float score;
        std::memcpy(&score, &bits, sizeof score);
        return score;
    }
    void clear() {
        items.clear();
        bound = LOWEST;
    }
    void shrink() {
        if (items.size() <= k) return;
        std::nth_element(items.begin(), items.begin() + (k - 1), items.end(), std::greater<uint64_t>());
        items.resize(k);
        const float kth = score(items[k - 1]);
        if (kth > bound) bound = kth;
    }
    void add(float value, int64_t column) {
        if (items.size() == items.capacity()) shrink();
        items.push_back(pack(value, column));
    }
};

// One bit per score that is not below the bound (NaN is not).
static inline uint64_t not_below(const float *scores, float bound) {
    uint64_t bits = 0;
#if defined(__AVX512F__)
    const __m512 least = _mm512_set1_ps(bound);
    __mmask16 part[4];
    for (int v = 0; v < 4; v++) part[v] = _mm512_cmp_ps_mask(_mm512_loadu_ps(scores + 16 * v), least, _CMP_NLT_UQ);
    if (part[0] | part[1] | part[2] | part[3])
        for (int v = 0; v < 4; v++) bits |= (uint64_t)part[v] << 16 * v;
#elif defined(__AVX2__)
    for (int v = 0; v < 8; v++)
        bits |= (uint64_t)(uint32_t)_mm256_movemask_ps(
                    _mm256_cmp_ps(_mm256_loadu_ps(scores + 8 * v), _mm256_set1_ps(bound), _CMP_NLT_UQ))
                << 8 * v;
#else
    for (int l = 0; l < 64; l++) bits |= (uint64_t)!(scores[l] < bound) << l;
#endif
    return bits;
}

// The k-th largest of the maxima of groups of scores: a lower bound of the k-th largest score.
static float group_bound(const float *scores, int64_t vectors, size_t k, std::vector<float> &maxima) {
    int64_t groups = 1;
    while (groups * LANES < (int64_t)(2 * k)) groups *= 2;
    if (vectors < 2 * groups) return LOWEST;
    maxima.assign(groups * LANES, EXCLUDED);
    if (groups <= 4) { // in registers, four groups at a time so that none waits for the one before
        Vector m[4];
        for (int g = 0; g < 4; g++) m[g] = all(EXCLUDED);
        for (int64_t v = 0; v < vectors; v += 4)
            for (int g = 0; g < 4; g++) m[g] = larger(load(scores + (v + g) * LANES), m[g]);
        for (int g = 3; g >= groups; g--) m[g - groups] = larger(m[g], m[g - groups]);
        for (int g = 0; g < groups; g++) store(maxima.data() + g * LANES, m[g]);
    } else {
        for (int64_t v = 0; v < vectors; v++) {
            float *slot = maxima.data() + (v & (groups - 1)) * LANES;
            store(slot, larger(load(scores + v * LANES), load(slot)));
        }
    }
    std::nth_element(maxima.begin(), maxima.begin() + (k - 1), maxima.end(), std::greater<float>());
    return std::max(LOWEST, maxima[k - 1]);
}

// Take a strip of scores into the candidates; `count` is a multiple of 64, filled up with EXCLUDED.
static void take(Candidates &best, const float *scores, int64_t count, int64_t first, std::vector<float> &maxima) {
    best.bound = std::max(best.bound, group_bound(scores, count / LANES, best.k, maxima));
    for (int64_t start = 0; start < count; start += 64)
        for (uint64_t bits = not_below(scores + start, best.bound); bits; bits &= bits - 1) {
            const int64_t j = start + __builtin_ctzll(bits);
            best.add(scores[j], first + j);
        }
}

// Keys of one head in panels of PANEL keys, head_dim x PANEL each, so that scores of a panel are vector products.
static void pack_panel(const Problem &p, int64_t b, int64_t h, int64_t first, float *panel) {
    for (int64_t l = 0; l < PANEL; l++) {
        const float *row = first + l < p.keys ? at(p.key, b, h, first + l) : nullptr;
        for (int64_t d = 0; d < p.head_dim; d++) panel[d * PANEL + l] = row ? row[d] : 0.0f;
    }
}

// Scores of TILE queries (head_dim x TILE, scaled) and one panel of keys.
static inline void score_panel(const float *queries, const float *panel, int64_t dim, float *scores, int64_t ld) {
    Vector low[TILE] = {}, high[TILE] = {};
    for (int64_t d = 0; d < dim; d++) {
        const Vector a = load(panel + d * PANEL), b = load(panel + d * PANEL + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < TILE; r++) {
            const Vector q = all(queries[d * TILE + r]);
            low[r] += q * a;
            high[r] += q * b;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < TILE; r++) {
        store(scores + r * ld, low[r]);
        store(scores + r * ld + LANES, high[r]);
    }
}

static inline float dot(const float *a, const float *b, int64_t dim) {
    Vector total = {};
    int64_t d = 0;
    for (; d + LANES <= dim; d += LANES) total += load(a + d) * load(b + d);
    float rest = 0;
    for (; d < dim; d++) rest += a[d] * b[d];
    return sum(total) + rest;
}

static inline void add_scaled(float *to, float factor, const float *from, int64_t dim) {
    int64_t d = 0;
    for (; d + LANES <= dim; d += LANES) store(to + d, load(to + d) + factor * load(from + d));
    for (; d < dim; d++) to[d] += factor * from[d];
}

// Add the bias and exclude what the mask and the limit exclude, and what lies past the last key.
static void adjust(const Problem &p, int64_t b, int64_t h, int64_t i, int64_t first, int64_t count, float *scores) {
    int64_t stop = p.limit ? std::min(p.keys, p.limit[i] + 1) - first : p.keys - first;
    stop = std::max<int64_t>(0, std::min(stop, count));
    if (p.bias.data) {
        const float *bias = at<float>(p.bias, b, h, i) + first * p.bias.column;
        const float sign = p.sign;
        for (int64_t j = 0; j < stop; j++) scores[j] += sign * bias[j * p.bias.column];
    }
    if (p.mask.data) {
        const uint8_t *mask = at<uint8_t>(p.mask, b, h, i) + first * p.mask.column;
        if (p.mask.column == 1) // its own loop, for this one is vectorized
            for (int64_t j = 0; j < stop; j++) scores[j] = mask[j] ? scores[j] : EXCLUDED;
        else
            for (int64_t j = 0; j < stop; j++) scores[j] = mask[j * p.mask.column] ? scores[j] : EXCLUDED;
    }
    std::fill(scores + stop, scores + count, EXCLUDED);
}

extern "C" void select_keys(const Problem *problem) {
    const Problem &p = *problem;
    const bool few = p.queries < 4; // too few queries to pay for packing the keys
    const int64_t panels = (p.keys + PANEL - 1) / PANEL, size = PANEL * p.head_dim;
    // not a vector, which would be cleared by one thread before all of them fill it
    const std::unique_ptr<float[]> packed(few ? nullptr : new float[p.batch * p.kv_heads * panels * size]);
    if (!few) {
#pragma omp parallel for num_threads(p.threads)
        for (int64_t n = 0; n < p.batch * p.kv_heads * panels; n++) {
            const int64_t bh = n / panels;
            pack_panel(p, bh / p.kv_heads, bh % p.kv_heads, n % panels * PANEL, packed.get() + n * size);
        }
    }
    const int64_t height = few ? 1 : TILE, tiles = (p.queries + height - 1) / height;
    const int64_t width = std::min(STRIP, (p.keys + 63) / 64 * 64);
#pragma omp parallel num_threads(p.threads)
    {
        std::vector<float> queries(height * p.head_dim), strip(height * width), maxima;
        std::vector<Candidates> best(height);
        for (auto &c : best) {
            c.k = p.slots;
            c.items.reserve(4 * p.slots + 64);
        }
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < p.batch * p.heads * tiles; n++) {
            // the last queries first: causal rows are the longer the later
            const int64_t tile = tiles - 1 - n % tiles, h = n / tiles % p.heads, b = n / tiles / p.heads;
            const int64_t kv = h / (p.heads / p.kv_heads), first = tile * height;
            const int64_t rows = std::min(height, p.queries - first);
            int64_t stop = p.keys;
            if (p.limit) stop = std::min(stop, *std::max_element(p.limit + first, p.limit + first + rows) + 1);
            std::fill(queries.begin(), queries.end(), 0.0f);
            for (int64_t r = 0; r < rows; r++)
                for (int64_t d = 0; d < p.head_dim; d++)
                    queries[d * height + r] = at(p.query, b, h, first + r)[d] * (p.sign * p.scale);
            for (auto &c : best) c.clear();
            for (int64_t start = 0; start < stop; start += width) {
                const int64_t count = (std::min(width, stop - start) + 63) / 64 * 64;
                if (few)
                    for (int64_t j = start; j < std::min(start + count, stop); j++)
                        strip[j - start] = dot(queries.data(), at(p.key, b, kv, j), p.head_dim);
                else
                    for (int64_t j = start; j < std::min(start + count, stop); j += PANEL)
                        score_panel(queries.data(), packed.get() + ((b * p.kv_heads + kv) * panels + j / PANEL) * size,
                                    p.head_dim, strip.data() + (j - start), width);
                for (int64_t r = 0; r < rows; r++) {
                    float *scores = strip.data() + r * width;
                    adjust(p, b, h, first + r, start, count, scores);
                    take(best[r], scores, count, start, maxima);
                }
            }
            for (int64_t r = 0; r < rows; r++) {
                auto &found = best[r];
                found.shrink();
                int32_t *out = p.index.data + ((b * p.heads + h) * p.queries + first + r) * p.slots;
                for (int64_t s = 0; s < p.slots; s++)
                    out[s] = s < (int64_t)found.items.size() ? (int32_t)(uint32_t)found.items[s] : -1;
            }
        }
    }
}

// ------------------------------------------------------------------ attention over lists

// Calls row(b, h, kv, i, index, n) for every query, n its number among all, in parallel.
template <class Row> static void for_rows(const Problem &p, Row row) {
    const int64_t total = p.batch * p.heads * p.queries, block = 64;
#pragma omp parallel for schedule(dynamic) num_threads(p.threads)
    for (int64_t start = 0; start < total; start += block)
        for (int64_t n = start; n < std::min(start + block, total); n++) {
            const int64_t i = n % p.queries, h = n / p.queries % p.heads, b = n / p.queries / p.heads;
            const int32_t *index = p.index.data + b * p.index.batch + h * p.index.head + i * p.slots;
            row(b, h, h / (p.heads / p.kv_heads), i, index, n);
        }
}

extern "C" void forward(const Problem *problem) {
    const Problem &p = *problem;
    for_rows(p, [&](int64_t b, int64_t h, int64_t kv, int64_t i, const int32_t *index, int64_t n) {
        const float *query = at(p.query, b, h, i);
        const float *bias = p.list_bias ? p.list_bias + n * p.slots : nullptr;
        float *weights = p.weights + n * p.slots, *output = at(p.output, b, h, i);
        float highest = p.sinks ? p.sinks[h] : LOWEST;
        for (int64_t s = 0; s < p.slots; s++) {
            const int64_t j = index[s];
            weights[s] = EXCLUDED;
            if (j < 0) continue;
            weights[s] = p.scale * dot(query, at(p.key, b, kv, j), p.head_dim);
            if (bias) weights[s] += bias[s];
            highest = std::max(highest, weights[s]);
        }
        float total = p.sinks ? exponential(all(p.sinks[h] - highest))[0] : 0.0f;
        int64_t s = 0;
        for (; s + LANES <= p.slots; s += LANES) {
            const Vector w = exponential(load(weights + s) - highest);
            store(weights + s, w);
            total += sum(w);
        }
        for (; s < p.slots; s++) total += weights[s] = exponential(all(weights[s] - highest))[0];
        const float share = total == 0 ? 0.0f : 1 / total;
        std::fill(output, output + p.value_dim, 0.0f);
        for (s = 0; s < p.slots; s++) {
            weights[s] *= share;
            if (index[s] < 0) continue;
            const float factor = p.dropout ? p.dropout[n * p.slots + s] * weights[s] : weights[s];
            add_scaled(output, factor, at(p.value, b, kv, index[s]), p.value_dim);
        }
    });
}

// Gradients of one query's row: grad_query, and those of its scores before the scale.
static inline void row_backward(const Problem &p, int64_t b, int64_t h, int64_t kv, int64_t i, const int32_t *index,
                                int64_t n, float *grad_scores) {
    const float *weights = p.weights + n * p.slots, *grad_output = at(p.grad_output, b, h, i);
    float *grad_query = at(p.grad_query, b, h, i), delta = 0;
    for (int64_t s = 0; s < p.slots; s++) {
        grad_scores[s] = 0;
        if (index[s] < 0) continue;
        grad_scores[s] = dot(grad_output, at(p.value, b, kv, index[s]), p.value_dim);
        if (p.dropout) grad_scores[s] *= p.dropout[n * p.slots + s];
        delta += weights[s] * grad_scores[s];
    }
    if (p.delta) p.delta[n] = delta;
    std::fill(grad_query, grad_query + p.head_dim, 0.0f);
    for (int64_t s = 0; s < p.slots; s++) {
        if (index[s] < 0) continue;
        grad_scores[s] = weights[s] * (grad_scores[s] - delta);
        add_scaled(grad_query, p.scale * grad_scores[s], at(p.key, b, kv, index[s]), p.head_dim);
    }
}

// What one query's row adds to the gradients of the keys and values from `first` to `stop`.
static inline void add_row(const Problem &p, int64_t b, int64_t h, int64_t kv, int64_t i, const int32_t *index,
                           int64_t n, const float *grad_scores, int64_t first, int64_t stop) {
    const float *query = at(p.query, b, h, i), *grad_output = at(p.grad_output, b, h, i);
    for (int64_t s = 0; s < p.slots; s++) {
        const int64_t j = index[s], w = n * p.slots + s;
        if (j < first || j >= stop) continue;
        add_scaled(at(p.grad_key, b, kv, j), p.scale * grad_scores[s], query, p.head_dim);
        add_scaled(at(p.grad_value, b, kv, j), p.dropout ? p.dropout[w] * p.weights[w] : p.weights[w], grad_output,
                   p.value_dim);
    }
}

extern "C" void backward(const Problem *problem) {
    const Problem &p = *problem;
    // A task owns a range of one head's keys and adds to them in the order of the queries, whatever the threads.
    // Without room for the gradients of all scores it owns the whole head, and makes them row by row.
    const bool rowwise = !p.grad_scores;
    if (!rowwise)
        for_rows(p, [&](int64_t b, int64_t h, int64_t kv, int64_t i, const int32_t *index, int64_t n) {
            row_backward(p, b, h, kv, i, index, n, p.grad_scores + n * p.slots);
        });
    const int64_t groups = p.heads / p.kv_heads, heads = p.batch * p.kv_heads;
    const int64_t parts = rowwise ? 1 : std::max<int64_t>(1, std::min(p.keys, 2 * p.threads / heads));
#pragma omp parallel for schedule(dynamic) num_threads(p.threads)
    for (int64_t task = 0; task < heads * parts; task++) {
        const int64_t part = task % parts, kv = task / parts % p.kv_heads, b = task / parts / p.kv_heads;
        const int64_t first = part * p.keys / parts, stop = (part + 1) * p.keys / parts;
        std::vector<float> row(rowwise ? p.slots : 0);
        for (int64_t j = first; j < stop; j++) {
            std::fill_n(at(p.grad_key, b, kv, j), p.head_dim, 0.0f);
            std::fill_n(at(p.grad_value, b, kv, j), p.value_dim, 0.0f);
        }
        for (int64_t h = kv * groups; h < (kv + 1) * groups; h++)
            for (int64_t i = 0; i < p.queries; i++) {
                const int64_t n = (b * p.heads + h) * p.queries + i;
                const int32_t *index = p.index.data + b * p.index.batch + h * p.index.head + i * p.slots;
                if (rowwise) row_backward(p, b, h, kv, i, index, n, row.data());
                add_row(p, b, h, kv, i, index, n, rowwise ? row.data() : p.grad_scores + n * p.slots, first, stop);
            }
    }
}
