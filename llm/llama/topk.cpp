// Selection of the likeliest tokens straight from a row of logits, and the sum that
// makes probabilities of them.
#include "shim.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

// One build for each kind of CPU, chosen when the program starts.
#if defined(__x86_64__) && defined(__ELF__)
#define CLLM_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLLM_CLONES
#endif

namespace {

constexpr int32_t block = 128; // logits under one maximum
constexpr int32_t lanes = 16;
constexpr float   least = -std::numeric_limits<float>::infinity();

bool before(const cllm_candidate & a, const cllm_candidate & b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

// The scratch of a thread: it lives as long as the thread and is reused.
struct scratch {
    std::vector<float>          maxima;
    std::vector<float>          ordered;
    std::vector<cllm_candidate> found;
    std::vector<uint64_t>       keys, keys2;
};
thread_local scratch mine;

// An integer that orders like the logit, greatest first; both zeros are equal.
uint32_t falling(float f) {
    f += 0.0f;
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u & 0x80000000u ? u : ~u & 0x7fffffffu;
}

float logit_of(uint32_t key) {
    const uint32_t u = key & 0x80000000u ? key : ~key & 0x7fffffffu;
    float          f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

// All logits in order: a radix sort that keeps the order of equal ones.
int32_t sort_all(const float * x, int32_t n, cllm_candidate * out) {
    constexpr int bits = 11, passes = 3, size = 1 << bits;

    std::vector<uint64_t> & a = mine.keys;
    std::vector<uint64_t> & b = mine.keys2;
    a.resize(size_t(n));
    b.resize(size_t(n));
    static thread_local std::array<std::array<uint32_t, size>, passes> count;
    for (auto & c : count) {
        c.fill(0);
    }
    int32_t m = 0;
    for (int32_t i = 0; i < n; i++) {
        if (std::isnan(x[i])) {
            continue;
        }
        const uint32_t key = falling(x[i]);
        a[size_t(m++)]     = uint64_t(key) << 32 | uint32_t(i);
        for (int p = 0; p < passes; p++) {
            count[size_t(p)][key >> (p * bits) & (size - 1)]++;
        }
    }
    for (int p = 0; p < passes; p++) {
        uint32_t start = 0;
        for (uint32_t & c : count[size_t(p)]) {
            const uint32_t here = c;
            c                   = start;
            start += here;
        }
        for (int32_t i = 0; i < m; i++) {
            const uint64_t k                                                 = a[size_t(i)];
            b[count[size_t(p)][k >> (32 + p * bits) & (size - 1)]++] = k;
        }
        a.swap(b);
    }
    for (int32_t i = 0; i < m; i++) {
        out[i] = {int32_t(uint32_t(a[size_t(i)])), logit_of(uint32_t(a[size_t(i)] >> 32))};
    }
    return m;
}

} // namespace

// The maximum of each block. A comparison with NaN is false, so NaN never wins.
CLLM_CLONES
static void block_maxima(const float * x, int32_t n, float * maxima) {
    int32_t b = 0;
    for (; (b + 1) * block <= n; b++) {
        float m[lanes];
        for (int32_t j = 0; j < lanes; j++) {
            m[j] = least;
        }
        for (int32_t i = b * block; i < (b + 1) * block; i += lanes) {
            for (int32_t j = 0; j < lanes; j++) {
                m[j] = x[i + j] > m[j] ? x[i + j] : m[j];
            }
        }
        float all = least;
        for (int32_t j = 0; j < lanes; j++) {
            all = m[j] > all ? m[j] : all;
        }
        maxima[b] = all;
    }
    if (b * block < n) {
        float all = least;
        for (int32_t i = b * block; i < n; i++) {
            all = x[i] > all ? x[i] : all;
        }
        maxima[b] = all;
    }
}

// The k greatest. The k-th greatest block maximum is a floor that at least k
// logits reach, so that only the blocks above it are looked at again.
static int32_t select_k(const float * x, int32_t n, int32_t k, cllm_candidate * out) {
    const int32_t blocks = (n + block - 1) / block;
    mine.maxima.resize(size_t(blocks));
    block_maxima(x, n, mine.maxima.data());

    float floor = least;
    if (k <= blocks) {
        mine.ordered = mine.maxima;
        std::nth_element(mine.ordered.begin(), mine.ordered.begin() + (k - 1), mine.ordered.end(), std::greater<float>());
        floor = mine.ordered[size_t(k - 1)];
    }
    std::vector<cllm_candidate> & found = mine.found;
    found.clear();
    for (int32_t b = 0; b < blocks; b++) {
        if (!(mine.maxima[size_t(b)] >= floor)) {
            continue;
        }
        const int32_t end = std::min(n, (b + 1) * block);
        for (int32_t i = b * block; i < end; i++) {
            if (x[i] >= floor) {
                found.push_back({i, x[i]});
            }
        }
    }
    const auto last = found.begin() + std::min<int64_t>(k, int64_t(found.size()));
    if (last != found.end()) {
        std::nth_element(found.begin(), last, found.end(), before);
    }
    std::sort(found.begin(), last, before);
    std::copy(found.begin(), last, out);
    return int32_t(last - found.begin());
}

int32_t cllm_select_one(const float * logits, int32_t n, int32_t k, cllm_candidate * out) {
    try {
        return k <= 0 || k >= n ? sort_all(logits, n, out) : select_k(logits, n, k, out);
    } catch (...) { // no memory
        return 0;
    }
}

// The sum of e^(x-max). e^y is 2^k e^r with k whole and r within ln(2)/2 of zero,
// where seven terms of the series give all digits of a float. NaN counts nothing, and
// neither does what is less than the greatest by so much that no float holds it.
CLLM_CLONES
static double sum_of_exponentials(const float * x, int32_t n, float max) {
    constexpr float per_ln2   = 1.44269504f;
    constexpr float ln2_high  = 0.693359375f;
    constexpr float ln2_low   = -2.12194440e-4f;
    constexpr float rounder   = 12582912.0f; // added, it leaves no room for a fraction
    constexpr float vanishing = -87.0f;

    double  total = 0;
    int32_t i     = 0;
    while (i < n) {
        float         sums[lanes] = {};
        const int32_t end         = i + std::min(n - i, block);
        for (; i + lanes <= end; i += lanes) {
            for (int32_t j = 0; j < lanes; j++) {
                const float   y     = x[i + j] - max;
                const bool    counts = y >= vanishing;
                const float   z     = counts ? y : 0.0f;
                const float   k     = z * per_ln2 + rounder - rounder;
                const float   r     = z - k * ln2_high - k * ln2_low;
                const float   e     = 1 + r * (1 + r * (1.0f / 2 + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720))))));
                const int32_t bits  = (int32_t(k) + 127) << 23;
                float         power;
                memcpy(&power, &bits, sizeof(power));
                sums[j] += counts ? e * power : 0.0f;
            }
        }
        for (; i < end; i++) {
            const float y = x[i] - max;
            sums[0] += y >= vanishing ? std::exp(y) : 0.0f;
        }
        for (int32_t j = 0; j < lanes; j++) {
            total += double(sums[j]);
        }
    }
    return total;
}

double cllm_logsumexp(const float * x, int32_t n) {
    float max = least;
    for (int32_t b = 0; b < n; b += block) {
        float here;
        block_maxima(x + b, std::min(n - b, block), &here);
        max = here > max ? here : max;
    }
    if (std::isinf(max)) { // of no use to anyone: nothing can be sampled from such a row
        return double(max);
    }
    return double(max) + std::log(sum_of_exponentials(x, n, max));
}

void cllm_select(cllm_selection * s, int32_t count, cllm_candidate * out) {
    for (int32_t i = 0; i < count; i++) {
        s[i].found = cllm_select_one(s[i].logits, s[i].n, s[i].k, out + s[i].offset);
    }
}
