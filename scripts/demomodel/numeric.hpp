// Vectors, matrix products and threads for transformer.cpp.
//
// Every result is the same to the last bit on every CPU with fused multiply-add: a sum
// is taken in an order that does not depend on the width of the CPU's registers or on
// the number of threads. So no option that lets the compiler reorder sums may be set.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

// 64 bytes of numbers. The compiler splits them where the registers are smaller.
template <class T> struct Lanes;
template <> struct Lanes<float> {
	typedef float V __attribute__((vector_size(64), aligned(4)));
	typedef int32_t I __attribute__((vector_size(64)));
};
template <> struct Lanes<double> {
	typedef double V __attribute__((vector_size(64), aligned(8)));
};
template <class T> using Vec = typename Lanes<T>::V;
template <class T> constexpr int LANES = 64 / sizeof(T);

template <class T> inline Vec<T> load(const T *p) {
	Vec<T> v;
	std::memcpy(&v, p, sizeof v);
	return v;
}

template <class T> inline void store(T *p, Vec<T> v) { std::memcpy(p, &v, sizeof v); }

template <class T> inline T sum(Vec<T> v) {
	T s = 0;
	for (int i = 0; i < LANES<T>; i++) s += v[i];
	return s;
}

// exp of each lane; at least 0, also for minus infinity. A float's is off by 2 units in
// the last place at most: the power of two nearest to it times a polynomial.
inline Vec<double> exp(Vec<double> x) {
	for (int i = 0; i < LANES<double>; i++) x[i] = std::exp(x[i]);
	return x;
}

inline Vec<float> exp(Vec<float> x) {
	using V = Vec<float>;
	using I = Lanes<float>::I;
	const I tiny = x < -87.0f;
	x = x < -87.0f ? V{} - 87.0f : x;
	x = x > 88.0f ? V{} + 88.0f : x;
	const V n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; // rounds to a whole number
	const V r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
	V y = V{} + 1.0f / 5040;
	for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) y = y * r + c;
	const I power = (__builtin_convertvector(n, I) + 127) << 23;
	V two;
	std::memcpy(&two, &power, sizeof two);
	y *= two;
	return tiny ? V{} : y;
}

// A matrix as it lies in memory: the number of row i and column j is at
// data[i * row + j * column].
template <class T> struct Matrix {
	T *data;
	long row, column = 1;
	Matrix transposed() const { return {data, column, row}; }
};

// The part of C that one run of the inner loop computes: TALL rows of WIDE vectors, as
// many as the registers hold.
#ifdef __AVX512F__
constexpr int TALL = 12, WIDE = 2;
#else
constexpr int TALL = 6, WIDE = 1;
#endif

// acc += a b, where a is a packed panel of TALL rows and b one of WIDE vectors.
template <class T> inline void tile(long depth, const T *a, const T *b, Vec<T> acc[TALL][WIDE]) {
	constexpr int L = LANES<T>;
	for (long k = 0; k < depth; k++, a += TALL, b += WIDE * L) {
		Vec<T> row[WIDE];
		for (int j = 0; j < WIDE; j++) row[j] = load(b + j * L);
#pragma clang loop unroll(full)
		for (int i = 0; i < TALL; i++)
#pragma clang loop unroll(full)
			for (int j = 0; j < WIDE; j++) acc[i][j] = row[j] * a[i] + acc[i][j];
	}
}

// C (rows x columns) = A (rows x depth) B (depth x columns), or += with ADD. A number of C
// is summed over the depth from its beginning to its end, with fused multiply-add.
template <bool ADD = false, class T> void multiply(long rows, long columns, long depth, Matrix<const T> a, Matrix<const T> b, Matrix<T> c) {
	constexpr int L = LANES<T>, N = WIDE * L;
	thread_local std::vector<T> panels_of_b, panel_of_a;
	// So many columns at a time that their panels stay in the second-level cache.
	const long block = std::max<long>(N, 96 * 1024 / std::max(depth, 1L) / N * N);
	panel_of_a.resize(depth * TALL);
	for (long from = 0; from < columns; from += block) {
		const long width = std::min(block, columns - from), panels = (width + N - 1) / N;
		panels_of_b.resize(panels * depth * N);
		for (long p = 0; p < panels; p++) {
			T *to = panels_of_b.data() + p * depth * N;
			const long first = from + p * N, count = std::min<long>(N, columns - first);
			for (long k = 0; k < depth; k++, to += N) {
				const T *src = b.data + k * b.row + first * b.column;
				for (long j = 0; j < count; j++) to[j] = src[j * b.column];
				std::fill(to + count, to + N, T(0));
			}
		}
		for (long i = 0; i < rows; i += TALL) {
			const long tall = std::min<long>(TALL, rows - i);
			for (long r = 0; r < TALL; r++) {
				const T *src = a.data + (i + r) * a.row;
				T *to = panel_of_a.data() + r;
				if (r < tall)
					for (long k = 0; k < depth; k++) to[k * TALL] = src[k * a.column];
				else
					for (long k = 0; k < depth; k++) to[k * TALL] = 0;
			}
			for (long p = 0; p < panels; p++) {
				Vec<T> acc[TALL][WIDE] = {};
				tile<T>(depth, panel_of_a.data(), panels_of_b.data() + p * depth * N, acc);
				const long first = from + p * N;
				for (long r = 0; r < tall; r++)
					for (long j = 0; j < WIDE; j++) {
						T *to = c.data + (i + r) * c.row + first + j * L;
						const long count = std::min<long>(L, columns - first - j * L);
						if (count == L)
							store(to, ADD ? load(to) + acc[r][j] : acc[r][j]);
						else
							for (long l = 0; l < count; l++) to[l] = ADD ? to[l] + acc[r][j][l] : acc[r][j][l];
					}
			}
		}
	}
}

// Calls work(0) to work(count - 1), on as many threads as there are cores.
template <class F> void in_parallel(int count, F work) {
	std::atomic<int> next{0};
	auto run = [&] {
		for (int i; (i = next++) < count;) work(i);
	};
	std::vector<std::thread> threads;
	const int cores = std::max(1u, std::thread::hardware_concurrency());
	for (int i = 1; i < std::min(cores, count); i++) threads.emplace_back(run);
	run();
	for (auto &t : threads) t.join();
}
