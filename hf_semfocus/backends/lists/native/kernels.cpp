// Sparse attention over lists of keys on a CPU, float32: select(), forward(), backward().
//
// A list says which keys a query keeps: `slots` columns per query, -1 where there are fewer. select() makes the
// lists of the k highest (or lowest) scores without ever holding more than a strip of them; forward() and
// backward() work on any lists. The caller (kernels.py) owns all memory and has checked all shapes.
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
constexpr int64_t FEW = 2;        // vectors of values that are compared with each other, not with a bound
constexpr float LOWEST = std::numeric_limits<float>::lowest();
constexpr float EXCLUDED = -std::numeric_limits<float>::infinity();

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline Vector load(const float *at) { return *(const Vector *)at; }
static inline void store(float *at, Vector x) { *(Vector *)at = x; }
// Subtracting 0 changes no number, not even -0, so that this is a mere broadcast, from memory where possible.
static inline Vector all(float x) { return x - Vector{}; }

// The second where the first is NaN.
static inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

static inline float sum(Vector x) {
    typedef float Four __attribute__((vector_size(16)));
    Four part[LANES / 4];
    std::memcpy(part, &x, sizeof x);
    for (int width = LANES / 8; width; width /= 2)
        for (int l = 0; l < width; l++) part[l] += part[l + width];
    return (part[0][0] + part[0][2]) + (part[0][1] + part[0][3]);
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
    float *weights; // [batch, heads, queries, slots]; select(): the scores of the lists, or null
    Rows output, grad_output, grad_query, grad_key, grad_value;
    float *grad_scores; // [batch, heads, queries, slots], before the scale, or null
    float *delta;       // [batch, heads, queries]: sum of weights times their gradients, or null;
                        // select(): sum of the exponentials of all scores less the highest, or null
};
}

static inline float *at(const Rows &t, int64_t b, int64_t h, int64_t i) {
    return t.data + b * t.batch + h * t.head + i * t.row;
}

template <class T> static inline const T *at(const Plane &t, int64_t b, int64_t h, int64_t i) {
    return (const T *)t.data + b * t.batch + h * t.head + i * t.row;
}

// ------------------------------------------------------------------ selection

// Integers that compare as scores do: both zeros equal, NaN highest.
static inline Ints ordered(Vector x) {
    x = x + Vector{};
    Ints bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits ^= bits >> 31 & INT32_MAX;
    return x != x ? Ints{} + INT32_MAX : bits;
}
static inline int32_t ordered(float x) { return ordered(all(x))[0]; }

// The score of such an integer; the highest number for that of NaN.
static inline float score_of(int32_t bits) {
    bits ^= bits >> 31 & INT32_MAX;
    float score;
    std::memcpy(&score, &bits, sizeof score);
    return score != score ? -EXCLUDED : score;
}

static inline int count_not_below(const int32_t *values, int64_t vectors, int32_t bound) {
#if defined(__AVX512F__)
    int found = 0;
    for (int64_t v = 0; v < vectors; v++)
        found += __builtin_popcount(
            _mm512_cmp_epi32_mask(_mm512_loadu_si512(values + v * LANES), _mm512_set1_epi32(bound), _MM_CMPINT_NLT));
    return found;
#else
    Ints found = {};
    for (int64_t v = 0; v < vectors; v++) found -= *(const Ints *)(values + v * LANES) >= bound;
    int total = 0;
    for (int l = 0; l < LANES; l++) total += found[l];
    return total;
#endif
}

static inline int32_t highest(Ints x) {
    int32_t part[LANES];
    std::memcpy(part, &x, sizeof x);
    for (int width = LANES / 2; width; width /= 2)
        for (int l = 0; l < width; l++) part[l] = std::max(part[l], part[l + width]);
    return part[0];
}

// The k-th largest of a few values: the least of those that fewer than k exceed.
static int32_t kth_largest(const int32_t *values, int64_t vectors, int32_t k) {
    Ints least = Ints{} + INT32_MAX;
    for (int64_t v = 0; v < vectors; v++) {
        const Ints x = *(const Ints *)(values + v * LANES);
        Ints above = {};
        for (int64_t c = 0; c < vectors * LANES; c += LANES)
#pragma GCC unroll 16
            for (int l = 0; l < LANES; l++) above -= (Ints{} + values[c + l]) > x;
        const Ints reached = above < k ? x : least;
        least = reached < least ? reached : least;
    }
    return ~highest(~least);
}

// A number that at least k of the values reach, and no more than k unless it is one of them. `low` is one that at
// least k of them reach, if only just.
static int32_t separator(const int32_t *values, int64_t vectors, int64_t k, int32_t low) {
    if (vectors <= FEW) return kth_largest(values, vectors, k);
    Ints most = *(const Ints *)values, least = most;
    for (int64_t v = 1; v < vectors; v++) {
        const Ints x = *(const Ints *)(values + v * LANES);
        most = x > most ? x : most;
        least = x < least ? x : least;
    }
    low = std::max(low, ~highest(~(k <= LANES ? most : least))); // every lane's highest value reaches the least of these
    int32_t high = highest(most); // the k-th largest is in [low, high]
    while (low < high) {
        const int32_t middle = (low | high) - ((low ^ high) >> 1); // the mean, rounded up
        const int found = count_not_below(values, vectors, middle);
        if (found == k) return middle;
        if (found > k)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

#if !defined(__AVX512F__)
// One bit for each of 64 scores that is not below the bound (NaN is not).
static inline uint64_t not_below(const float *scores, float bound) {
    uint64_t bits = 0;
#if defined(__AVX2__)
    for (int v = 0; v < 8; v++)
        bits |= (uint64_t)(uint32_t)_mm256_movemask_ps(
                    _mm256_cmp_ps(_mm256_loadu_ps(scores + 8 * v), _mm256_set1_ps(bound), _CMP_NLT_UQ))
                << 8 * v;
#else
    for (int l = 0; l < 64; l++) bits |= (uint64_t)!(scores[l] < bound) << l;
#endif
    return bits;
}
#endif

// What can still be among the k best keys of one query, in the order of their columns.
struct Candidates {
    std::vector<float> scores;
    std::vector<int32_t> columns, values;
    int64_t count, room, k;
    float bound; // no score below it can be among the k best

    explicit Candidates(int64_t slots)
        : scores(4 * slots + 192), columns(scores.size()), values(scores.size()), room(scores.size() - 128), k(slots) {}
    void clear() {
        count = 0;
        bound = LOWEST;
    }
    // Keep the k best; of equal scores the later columns.
    void shrink() {
        if (count <= k) return;
        const int64_t vectors = (count + LANES - 1) / LANES;
        for (int64_t c = count; c < vectors * LANES; c++) scores[c] = EXCLUDED;
        for (int64_t v = 0; v < vectors; v++)
            *(Ints *)&values[v * LANES] = ordered(load(&scores[v * LANES]));
        const int32_t least = separator(values.data(), vectors, k, ordered(bound));
        int64_t extra = count_not_below(values.data(), vectors, least) - k; // equal ones that have no room
        for (int64_t c = 0; extra > 0; c++)
            if (values[c] == least) {
                values[c] = INT32_MIN;
                extra--;
            }
        count = 0;
        for (int64_t v = 0; v < vectors; v++) keep_reaching(least, v * LANES);
        bound = std::max(bound, score_of(least));
    }
    // Keep those of the LANES candidates from `from` whose value is not below `least`.
    void keep_reaching(int32_t least, int64_t from) {
#if defined(__AVX512F__)
        const __m512i value = _mm512_loadu_si512(&values[from]);
        const __mmask16 kept = _mm512_cmp_epi32_mask(value, _mm512_set1_epi32(least), _MM_CMPINT_NLT);
        append(kept, _mm512_loadu_ps(&scores[from]), _mm512_loadu_si512(&columns[from]));
#else
        for (int64_t c = from; c < from + LANES; c++) {
            scores[count] = scores[c];
            columns[count] = columns[c];
            count += values[c] >= least;
        }
#endif
    }
#if defined(__AVX512F__)
    void append(__mmask16 wanted, __m512 score, __m512i column) {
        _mm512_storeu_ps(&scores[count], _mm512_maskz_compress_ps(wanted, score));
        _mm512_storeu_si512(&columns[count], _mm512_maskz_compress_epi32(wanted, column));
        count += __builtin_popcount(wanted);
    }
#endif
    // Take the scores of 64 keys that are not below the bound (NaN is not).
    void add(const float *from, int64_t first) {
        if (count > room) shrink();
#if defined(__AVX512F__)
        __mmask16 part[4];
        const __m512 least = _mm512_set1_ps(bound);
        for (int v = 0; v < 4; v++) part[v] = _mm512_cmp_ps_mask(_mm512_loadu_ps(from + 16 * v), least, _CMP_NLT_UQ);
        if (!(part[0] | part[1] | part[2] | part[3])) return;
        const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (int v = 0; v < 4; v++) {
            const __m512i column = _mm512_add_epi32(lane, _mm512_set1_epi32((int)first + 16 * v));
            append(part[v], _mm512_loadu_ps(from + 16 * v), column);
        }
#else
        for (uint64_t bits = not_below(from, bound); bits; bits &= bits - 1, count++) {
            scores[count] = from[__builtin_ctzll(bits)];
            columns[count] = first + __builtin_ctzll(bits);
        }
#endif
    }
};

// The k-th largest of the maxima of groups of scores: a lower bound of the k-th largest score.
static float group_bound(const float *scores, int64_t vectors, int64_t k, std::vector<int32_t> &maxima) {
    int64_t groups = 1;
    while (groups * LANES < 2 * k) groups *= 2;
    if (vectors < 4 * groups) return LOWEST;
    maxima.resize(groups * LANES);
    if (groups <= 4) { // in registers, four groups at a time so that none waits for the one before
        Vector m[4];
        for (int g = 0; g < 4; g++) m[g] = all(EXCLUDED);
        for (int64_t v = 0; v < vectors; v += 4)
            for (int g = 0; g < 4; g++) m[g] = larger(load(scores + (v + g) * LANES), m[g]);
        for (int g = 3; g >= groups; g--) m[g - groups] = larger(m[g], m[g - groups]);
        for (int g = 0; g < groups; g++) *(Ints *)(maxima.data() + g * LANES) = ordered(m[g]);
    } else {
        std::vector<float> best(groups * LANES, EXCLUDED);
        for (int64_t v = 0; v < vectors; v++) {
            float *slot = best.data() + (v & (groups - 1)) * LANES;
            store(slot, larger(load(scores + v * LANES), load(slot)));
        }
        for (int64_t g = 0; g < groups; g++) *(Ints *)(maxima.data() + g * LANES) = ordered(load(best.data() + g * LANES));
    }
    return std::max(LOWEST, score_of(separator(maxima.data(), groups, k, INT32_MIN)));
}

// Take a strip of scores into the candidates; `count` is a multiple of 64, filled up with EXCLUDED.
static void take(Candidates &best, const float *scores, int64_t count, int64_t first, std::vector<int32_t> &maxima) {
    best.bound = std::max(best.bound, group_bound(scores, count / LANES, best.k, maxima));
    for (int64_t start = 0; start < count; start += 64) best.add(scores + start, first + start);
}

// HEIGHT rows from `first`, times a factor, as width x HEIGHT, so that scores are vector products; the last row again
// where there are fewer.
template <int HEIGHT>
static void pack(const Rows &from, int64_t b, int64_t h, int64_t first, int64_t rows, int64_t width, float factor,
                 float *packed) {
    typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
    constexpr int WHOLE = HEIGHT / 4 * 4; // rows that are transposed four by four
    const float *row[HEIGHT];
    for (int r = 0; r < HEIGHT; r++) row[r] = at(from, b, h, std::min(first + r, rows - 1));
    int64_t d = 0;
    for (; d + 4 <= width; d += 4) {
        for (int r = 0; r < WHOLE; r += 4) {
            const Four x = *(const Four *)(row[r] + d) * factor, y = *(const Four *)(row[r + 1] + d) * factor;
            const Four z = *(const Four *)(row[r + 2] + d) * factor, w = *(const Four *)(row[r + 3] + d) * factor;
            const Four a = __builtin_shufflevector(x, y, 0, 4, 1, 5), c = __builtin_shufflevector(x, y, 2, 6, 3, 7);
            const Four e = __builtin_shufflevector(z, w, 0, 4, 1, 5), g = __builtin_shufflevector(z, w, 2, 6, 3, 7);
            float *to = packed + d * HEIGHT + r;
            *(Four *)to = __builtin_shufflevector(a, e, 0, 1, 4, 5);
            *(Four *)(to + HEIGHT) = __builtin_shufflevector(a, e, 2, 3, 6, 7);
            *(Four *)(to + 2 * HEIGHT) = __builtin_shufflevector(c, g, 0, 1, 4, 5);
            *(Four *)(to + 3 * HEIGHT) = __builtin_shufflevector(c, g, 2, 3, 6, 7);
        }
        for (int r = WHOLE; r < HEIGHT; r++)
            for (int64_t j = d; j < d + 4; j++) packed[j * HEIGHT + r] = row[r][j] * factor;
    }
    for (; d < width; d++)
        for (int r = 0; r < HEIGHT; r++) packed[d * HEIGHT + r] = row[r][d] * factor;
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

// The sum of exponentials of a row's scores less the highest of them, strip by strip.
struct Exponentials {
    float highest, total;

    void clear() {
        highest = LOWEST; // finite, as -inf - -inf is NaN
        total = 0;
    }
    void add(const float *scores, int64_t count) { // a multiple of LANES
        Vector most = all(highest), added = {};
        for (int64_t c = 0; c < count; c += LANES) most = larger(load(scores + c), most);
        float part[LANES];
        store(part, most);
        const float before = highest;
        for (int l = 0; l < LANES; l++) highest = std::max(highest, part[l]);
        for (int64_t c = 0; c < count; c += LANES) added += exponential(load(scores + c) - highest);
        total = total * exponential(all(before - highest))[0] + sum(added);
    }
};

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
            pack<PANEL>(p.key, bh / p.kv_heads, bh % p.kv_heads, n % panels * PANEL, p.keys, p.head_dim, 1,
                        packed.get() + n * size);
        }
    }
    const int64_t height = few ? 1 : TILE, tiles = (p.queries + height - 1) / height;
    const int64_t width = std::min(STRIP, (p.keys + 63) / 64 * 64);
#pragma omp parallel num_threads(p.threads)
    {
        std::vector<float> queries(height * p.head_dim), strip(height * width);
        std::vector<int32_t> maxima;
        std::vector<Candidates> best(height, Candidates(p.slots));
        std::vector<Exponentials> sums(height);
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < p.batch * p.heads * tiles; n++) {
            // the last queries first: causal rows are the longer the later
            const int64_t tile = tiles - 1 - n % tiles, h = n / tiles % p.heads, b = n / tiles / p.heads;
            const int64_t kv = h / (p.heads / p.kv_heads), first = tile * height;
            const int64_t rows = std::min(height, p.queries - first);
            int64_t stop = p.keys;
            if (p.limit) stop = std::min(stop, *std::max_element(p.limit + first, p.limit + first + rows) + 1);
            (few ? pack<1> : pack<TILE>)(p.query, b, h, first, p.queries, p.head_dim, p.sign * p.scale, queries.data());
            for (auto &c : best) c.clear();
            for (auto &s : sums) s.clear();
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
                    if (p.delta) sums[r].add(scores, count);
                }
            }
            for (int64_t r = 0; r < rows; r++) {
                auto &found = best[r];
                found.shrink();
                const int64_t row = (b * p.heads + h) * p.queries + first + r;
                int32_t *out = p.index.data + row * p.slots;
                for (int64_t s = 0; s < p.slots; s++) out[s] = s < found.count ? found.columns[s] : -1;
                if (!p.weights) continue;
                for (int64_t s = 0; s < p.slots; s++)
                    p.weights[row * p.slots + s] = s < found.count ? p.sign * found.scores[s] : EXCLUDED;
                if (p.delta) p.delta[row] = sums[r].total;
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

// The listed rows of `from`, times their factors, summed up in the order of the list.
template <class Factor>
static inline void weighted_sum(const Problem &p, const Rows &from, int64_t b, int64_t kv, const int32_t *index,
                                int64_t dim, float *to, Factor factor) {
    constexpr int AT_ONCE = 4; // vectors that stay in registers
    int64_t d = 0;
    for (; d + AT_ONCE * LANES <= dim; d += AT_ONCE * LANES) {
        Vector total[AT_ONCE] = {};
        for (int64_t s = 0; s < p.slots; s++) {
            if (index[s] < 0) continue;
            const float *row = at(from, b, kv, index[s]) + d;
            const Vector f = all(factor(s));
            for (int v = 0; v < AT_ONCE; v++) total[v] += f * load(row + v * LANES);
        }
        for (int v = 0; v < AT_ONCE; v++) store(to + d + v * LANES, total[v]);
    }
    if (d == dim) return;
    std::fill(to + d, to + dim, 0.0f);
    for (int64_t s = 0; s < p.slots; s++)
        if (index[s] >= 0) add_scaled(to + d, factor(s), at(from, b, kv, index[s]) + d, dim - d);
}

extern "C" void forward(const Problem *problem) {
    const Problem &p = *problem;
    for_rows(p, [&](int64_t b, int64_t h, int64_t kv, int64_t i, const int32_t *index, int64_t n) {
        const float *query = at(p.query, b, h, i);
        const float *bias = p.list_bias ? p.list_bias + n * p.slots : nullptr;
        float *weights = p.weights + n * p.slots, *output = at(p.output, b, h, i);
        float highest = p.sinks ? std::max(p.sinks[h], LOWEST) : LOWEST; // finite, as -inf - -inf is NaN
        for (int64_t s = 0; s < p.slots; s++) {
            const int64_t j = index[s];
            weights[s] = EXCLUDED;
            if (j < 0) continue;
            weights[s] = p.scale * dot(query, at(p.key, b, kv, j), p.head_dim);
            if (bias) weights[s] += bias[s];
            highest = std::max(highest, weights[s]);
        }
        float total = p.sinks ? exponential(all(p.sinks[h] - highest))[0] : 0.0f;
        for (int64_t s = 0; s < p.slots; s += LANES) {
            float part[LANES]; // a copy, as the last one may be short
            const int64_t count = std::min<int64_t>(LANES, p.slots - s);
            std::fill(std::copy(weights + s, weights + s + count, part), part + LANES, EXCLUDED);
            const Vector w = exponential(load(part) - highest);
            store(part, w);
            std::copy(part, part + count, weights + s);
            total += sum(w);
        }
        const float share = total == 0 ? 0.0f : 1 / total;
        for (int64_t s = 0; s < p.slots; s++) weights[s] *= share;
        const float *dropout = p.dropout ? p.dropout + n * p.slots : nullptr;
        weighted_sum(p, p.value, b, kv, index, p.value_dim, output,
                     [&](int64_t s) { return dropout ? dropout[s] * weights[s] : weights[s]; });
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
    for (int64_t s = 0; s < p.slots; s++)
        if (index[s] >= 0) grad_scores[s] = weights[s] * (grad_scores[s] - delta);
    weighted_sum(p, p.key, b, kv, index, p.head_dim, grad_query, [&](int64_t s) { return p.scale * grad_scores[s]; });
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
