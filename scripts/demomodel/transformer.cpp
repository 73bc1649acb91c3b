// The transformer: Qwen3's architecture, its loss and its gradient.
//
// The architecture is that of Qwen3 (arXiv:2505.09388): RMS norm before attention and
// before the feed-forward part, RMS norm of each query and key head, rotary positions in
// halves (arXiv:2104.09864), grouped queries, SwiGLU (arXiv:2002.05202), output matrix
// tied to the embedding.
//
// Sequences lie one after the other, without filling between them: a row of a matrix
// is a token. Every part is a pair: forward computes the output and keeps what the gradient
// needs, backward turns the output's gradient into the inputs'. A batch is cut into SHARDS
// parts, each with a gradient of its own; their sum is the batch's.
//
// transformer.py calls the functions at the end. They come for float, to train, and for
// double, to check the gradient against finite differences.

#include "numeric.hpp"

#include <utility>

// The sizes of a model; transformer.py has the same fields. width, head_width,
// feed_forward and vocabulary are multiples of 16.
struct Shape {
	int64_t vocabulary, width, layers, heads, kv_heads, head_width, feed_forward;
	double rope_base;
};

namespace {

constexpr int SHARDS = 4; // more would keep more cores busy and give other last bits
constexpr double NORM_EPSILON = 1e-6;

template <class T> using Array = std::vector<T>;

// The matrices and vectors of a model, or of its gradient, in one array. A matrix has
// a row for each of its outputs. transformer.py has the same order.
template <class T> struct Parameters {
	struct Layer {
		T *attn_norm, *q, *k, *v, *q_norm, *k_norm, *output, *ffn_norm, *gate, *up, *down;
	};
	T *embedding, *output_norm;
	std::vector<Layer> layers;
	int64_t size = 0;

	Parameters(const Shape &s, T *first) : layers(s.layers) {
		auto take = [&](int64_t numbers) { return first + std::exchange(size, size + numbers); };
		const int64_t d = s.width, q = s.heads * s.head_width, kv = s.kv_heads * s.head_width, f = s.feed_forward;
		embedding = take(s.vocabulary * d);
		for (Layer &l : layers) {
			l.attn_norm = take(d);
			l.q = take(q * d);
			l.k = take(kv * d);
			l.v = take(kv * d);
			l.q_norm = take(s.head_width);
			l.k_norm = take(s.head_width);
			l.output = take(d * q);
			l.ffn_norm = take(d);
			l.gate = take(f * d);
			l.up = take(f * d);
			l.down = take(d * f);
		}
		output_norm = take(d);
	}
};

// y (n x out) = x (n x in) w^T, or += with ADD.
template <bool ADD = false, class T> void linear(long n, long in, long out, const T *x, const T *w, T *y) {
	multiply<ADD, T>(n, out, in, {x, in}, Matrix<const T>{w, in}.transposed(), {y, out});
}

// Adds to dw, and to dx with ADD, else sets dx.
template <bool ADD = false, class T> void linear_backward(long n, long in, long out, const T *dy, const T *x, const T *w, T *dx, T *dw) {
	multiply<ADD, T>(n, in, out, {dy, out}, {w, in}, {dx, in});
	multiply<true, T>(out, in, n, Matrix<const T>{dy, out}.transposed(), {x, in}, {dw, in});
}

// RMS norm of n rows. It keeps the rows at length 1 and their scale.
template <class T> struct Norm {
	Array<T> unit, scale;

	void forward(long n, long width, const T *x, const T *weight, T *y) {
		constexpr int L = LANES<T>;
		unit.resize(n * width);
		scale.resize(n);
		for (long i = 0; i < n; i++) {
			const T *row = x + i * width;
			Vec<T> squares{};
			for (long j = 0; j < width; j += L) squares = load(row + j) * load(row + j) + squares;
			scale[i] = 1 / std::sqrt(sum<T>(squares) / width + T(NORM_EPSILON));
			for (long j = 0; j < width; j += L) {
				const Vec<T> u = load(row + j) * scale[i];
				store(&unit[i * width + j], u);
				store(y + i * width + j, u * load(weight + j));
			}
		}
	}

	// Adds to dweight, and to dx with ADD, else sets dx, which may be dy.
	template <bool ADD = false> void backward(long n, long width, const T *dy, const T *weight, T *dx, T *dweight) {
		constexpr int L = LANES<T>;
		for (long i = 0; i < n; i++) {
			const T *u = &unit[i * width], *d = dy + i * width;
			Vec<T> dot{};
			for (long j = 0; j < width; j += L) {
				store(dweight + j, load(d + j) * load(u + j) + load(dweight + j));
				dot = load(d + j) * load(weight + j) * load(u + j) + dot;
			}
			const T mean = sum<T>(dot) / width;
			T *to = dx + i * width;
			for (long j = 0; j < width; j += L) {
				const Vec<T> v = (load(d + j) * load(weight + j) - load(u + j) * mean) * scale[i];
				store(to + j, ADD ? load(to + j) + v : v);
			}
		}
	}
};

// Cosines and sines of the rotary angles of positions 0 to length - 1.
template <class T> struct Rotation {
	long half;
	Array<T> cosine, sine;

	Rotation(const Shape &s, long length) : half(s.head_width / 2), cosine(length * half), sine(length * half) {
		for (long p = 0; p < length; p++)
			for (long i = 0; i < half; i++) {
				const double angle = p * std::pow(s.rope_base, -double(i) / half);
				cosine[p * half + i] = std::cos(angle);
				sine[p * half + i] = std::sin(angle);
			}
	}

	// Turns the pairs (i, i + half) of a row of heads by the angles of its position, or back.
	void turn(T *row, long heads, long position, T direction) const {
		const T *c = &cosine[position * half], *s = &sine[position * half];
		for (long h = 0; h < heads; h++, row += 2 * half)
			for (long i = 0; i < half; i++) {
				const T a = row[i], b = row[i + half];
				row[i] = a * c[i] - direction * b * s[i];
				row[i + half] = b * c[i] + direction * a * s[i];
			}
	}
};

template <class T> struct Layer {
	Norm<T> norm1, norm2, q_norm, k_norm;
	Array<T> h1, q, k, v, weights, mixed, h2, gate, up, inner;
};

// The arrays of a shard. They stay from batch to batch: fresh memory would cost more than
// all the sums. So only one batch at a time can be computed in a process.
template <class T> struct Workspace {
	Array<T> x, dx, last, h, gradient;
	std::vector<Layer<T>> kept;
	Norm<T> output_norm;
	Array<T> a, b, c; // for the moment
};
template <class T> Workspace<T> workspaces[SHARDS];

// A part of a batch.
template <class T> struct Shard {
	const Shape &shape;
	const Parameters<const T> &p;
	const Rotation<T> &rotation;
	Workspace<T> &space;
	const int32_t *tokens;
	std::vector<long> starts{0}; // of each sequence; the end of the last one

	long rows() const { return starts.back(); }

	// x = the embeddings of the tokens, through all layers.
	void forward() {
		const long n = rows(), d = shape.width;
		Array<T> &x = space.x;
		x.resize(n * d);
		for (long i = 0; i < n; i++) std::copy_n(p.embedding + tokens[i] * d, d, &x[i * d]);
		space.kept.resize(shape.layers);
		for (long l = 0; l < shape.layers; l++) {
			attention(p.layers[l], space.kept[l], x);
			feed_forward(p.layers[l], space.kept[l], x);
		}
	}

	void turn(Array<T> &rows_of_heads, long heads, T direction) const {
		for (size_t s = 0; s + 1 < starts.size(); s++)
			for (long i = starts[s]; i < starts[s + 1]; i++)
				rotation.turn(&rows_of_heads[i * heads * shape.head_width], heads, i - starts[s], direction);
	}

	// Calls f(first row, length, head, where its attention weights are, their row's width).
	template <class F> void each_head(F f) const {
		long at = 0;
		for (size_t s = 0; s + 1 < starts.size(); s++) {
			const long t = starts[s + 1] - starts[s], wide = (t + LANES<T> - 1) / LANES<T> * LANES<T>;
			for (long h = 0; h < shape.heads; h++, at += t * wide) f(starts[s], t, h, at, wide);
		}
	}

	long weights_size() const {
		long size = 0;
		each_head([&](long, long t, long, long, long wide) { size += t * wide; });
		return size;
	}

	// x += causal self-attention of x.
	void attention(const typename Parameters<const T>::Layer &w, Layer<T> &l, Array<T> &x) {
		const long n = rows(), d = shape.width, hw = shape.head_width, qw = shape.heads * hw, kw = shape.kv_heads * hw;
		l.h1.resize(n * d);
		l.norm1.forward(n, d, x.data(), w.attn_norm, l.h1.data());
		l.q.resize(n * qw);
		l.k.resize(n * kw);
		l.v.resize(n * kw);
		linear(n, d, qw, l.h1.data(), w.q, l.q.data());
		linear(n, d, kw, l.h1.data(), w.k, l.k.data());
		linear(n, d, kw, l.h1.data(), w.v, l.v.data());
		l.q_norm.forward(n * shape.heads, hw, l.q.data(), w.q_norm, l.q.data());
		l.k_norm.forward(n * shape.kv_heads, hw, l.k.data(), w.k_norm, l.k.data());
		turn(l.q, shape.heads, 1);
		turn(l.k, shape.kv_heads, 1);

		l.weights.resize(weights_size());
		l.mixed.resize(n * qw);
		each_head([&](long first, long t, long head, long at, long wide) {
			const long group = head * shape.kv_heads / shape.heads;
			const T *q = &l.q[first * qw + head * hw], *k = &l.k[first * kw + group * hw], *v = &l.v[first * kw + group * hw];
			multiply<false, T>(t, t, hw, {q, qw}, Matrix<const T>{k, kw}.transposed(), {&l.weights[at], wide});
			for (long i = 0; i < t; i++) softmax_of_past(&l.weights[at + i * wide], i + 1, wide);
			multiply<false, T>(t, hw, t, {&l.weights[at], wide}, {v, kw}, {&l.mixed[first * qw + head * hw], qw});
		});
		linear<true>(n, qw, d, l.mixed.data(), w.output, x.data());
	}

	void softmax_of_past(T *row, long past, long wide) const {
		const T scale = 1 / std::sqrt(T(shape.head_width));
		std::fill(row + past, row + wide, T(-INFINITY));
		const T most = *std::max_element(row, row + past);
		Vec<T> total{};
		for (long j = 0; j < wide; j += LANES<T>) {
			const Vec<T> e = exp((load(row + j) - most) * scale);
			store(row + j, e);
			total += e;
		}
		const T one = 1 / sum<T>(total);
		for (long j = 0; j < wide; j += LANES<T>) store(row + j, load(row + j) * one);
	}

	// dx is the gradient of x after the layer, then of x before it.
	void attention_backward(const typename Parameters<const T>::Layer &w, Layer<T> &l, typename Parameters<T>::Layer &g, Array<T> &dx) {
		const long n = rows(), d = shape.width, hw = shape.head_width, qw = shape.heads * hw, kw = shape.kv_heads * hw;
		Array<T> &dmixed = space.a, &dq = space.b, &dkv = space.c;
		dmixed.resize(n * qw);
		linear_backward(n, qw, d, dx.data(), l.mixed.data(), w.output, dmixed.data(), g.output);
		dq.resize(n * qw);
		dkv.assign(2 * n * kw, 0);
		T *dk = dkv.data(), *dv = dk + n * kw;
		each_head([&](long first, long t, long head, long at, long wide) {
			const long group = head * shape.kv_heads / shape.heads, on_q = first * qw + head * hw, on_kv = first * kw + group * hw;
			Matrix<const T> weights{&l.weights[at], wide}, dout{&dmixed[on_q], qw};
			multiply<true, T>(t, hw, t, weights.transposed(), dout, {dv + on_kv, kw});
			thread_local Array<T> dscores;
			dscores.resize(t * wide);
			multiply<false, T>(t, t, hw, dout, Matrix<const T>{&l.v[on_kv], kw}.transposed(), {dscores.data(), wide});
			for (long i = 0; i < t; i++) softmax_backward(&l.weights[at + i * wide], &dscores[i * wide], t, wide);
			Matrix<const T> ds{dscores.data(), wide};
			multiply<false, T>(t, hw, t, ds, {&l.k[on_kv], kw}, {&dq[on_q], qw});
			multiply<true, T>(t, hw, t, ds.transposed(), {&l.q[on_q], qw}, {dk + on_kv, kw});
		});
		turn(dq, shape.heads, -1);
		for (size_t s = 0; s + 1 < starts.size(); s++)
			for (long i = starts[s]; i < starts[s + 1]; i++) rotation.turn(dk + i * kw, shape.kv_heads, i - starts[s], -1);
		l.q_norm.backward(n * shape.heads, hw, dq.data(), w.q_norm, dq.data(), g.q_norm);
		l.k_norm.backward(n * shape.kv_heads, hw, dk, w.k_norm, dk, g.k_norm);

		Array<T> &dh = space.a;
		dh.resize(n * d);
		linear_backward(n, d, qw, dq.data(), l.h1.data(), w.q, dh.data(), g.q);
		linear_backward<true>(n, d, kw, dk, l.h1.data(), w.k, dh.data(), g.k);
		linear_backward<true>(n, d, kw, dv, l.h1.data(), w.v, dh.data(), g.v);
		l.norm1.template backward<true>(n, d, dh.data(), w.attn_norm, dx.data(), g.attn_norm);
	}

	// The gradient of scores from that of their softmax, in place.
	void softmax_backward(const T *weights, T *row, long length, long wide) const {
		const T scale = 1 / std::sqrt(T(shape.head_width));
		std::fill(row + length, row + wide, T(0));
		Vec<T> dot{};
		for (long j = 0; j < wide; j += LANES<T>) dot = load(row + j) * load(weights + j) + dot;
		const T mean = sum<T>(dot);
		for (long j = 0; j < wide; j += LANES<T>) store(row + j, (load(row + j) - mean) * load(weights + j) * scale);
	}

	// x += SwiGLU of x.
	void feed_forward(const typename Parameters<const T>::Layer &w, Layer<T> &l, Array<T> &x) {
		const long n = rows(), d = shape.width, f = shape.feed_forward;
		l.h2.resize(n * d);
		l.norm2.forward(n, d, x.data(), w.ffn_norm, l.h2.data());
		l.gate.resize(n * f);
		l.up.resize(n * f);
		l.inner.resize(n * f);
		linear(n, d, f, l.h2.data(), w.gate, l.gate.data());
		linear(n, d, f, l.h2.data(), w.up, l.up.data());
		for (long i = 0; i < n * f; i += LANES<T>) {
			const Vec<T> gate = load(&l.gate[i]);
			store(&l.inner[i], gate / (T(1) + exp(-gate)) * load(&l.up[i]));
		}
		linear<true>(n, f, d, l.inner.data(), w.down, x.data());
	}

	void feed_forward_backward(const typename Parameters<const T>::Layer &w, Layer<T> &l, typename Parameters<T>::Layer &g, Array<T> &dx) {
		const long n = rows(), d = shape.width, f = shape.feed_forward;
		Array<T> &dinner = space.a, &dh = space.b;
		dinner.resize(n * f);
		linear_backward(n, f, d, dx.data(), l.inner.data(), w.down, dinner.data(), g.down);
		for (long i = 0; i < n * f; i += LANES<T>) {
			const Vec<T> gate = load(&l.gate[i]), up = load(&l.up[i]), dy = load(&dinner[i]);
			const Vec<T> sigmoid = T(1) / (T(1) + exp(-gate)), silu = gate * sigmoid;
			store(&l.gate[i], dy * up * (sigmoid + silu * (T(1) - sigmoid)));
			store(&l.up[i], dy * silu);
		}
		dh.resize(n * d);
		linear_backward(n, d, f, l.gate.data(), l.h2.data(), w.gate, dh.data(), g.gate);
		linear_backward<true>(n, d, f, l.up.data(), l.h2.data(), w.up, dh.data(), g.up);
		l.norm2.template backward<true>(n, d, dh.data(), w.ffn_norm, dx.data(), g.ffn_norm);
	}

	// The sum of the losses of predicting targets[i] from row i where that is not negative,
	// and its gradient times scale.
	double backward(const int32_t *targets, T scale, Parameters<T> &g) {
		const long n = rows(), d = shape.width, v = shape.vocabulary;
		std::vector<long> learnt;
		for (long i = 0; i < n; i++)
			if (targets[i] >= 0) learnt.push_back(i);
		const long m = learnt.size();
		// Only the rows that are learnt need logits.
		Array<T> &last = space.last, &h = space.h, &dx = space.dx, &logits = space.a;
		last.resize(m * d);
		h.resize(m * d);
		dx.assign(n * d, 0);
		logits.resize(m * v);
		for (long i = 0; i < m; i++) std::copy_n(&space.x[learnt[i] * d], d, &last[i * d]);
		space.output_norm.forward(m, d, last.data(), p.output_norm, h.data());
		linear(m, d, v, h.data(), p.embedding, logits.data());
		double loss = 0;
		for (long i = 0; i < m; i++) loss += cross_entropy(&logits[i * v], targets[learnt[i]], scale);
		linear_backward(m, d, v, logits.data(), h.data(), p.embedding, last.data(), g.embedding);
		space.output_norm.backward(m, d, last.data(), p.output_norm, last.data(), g.output_norm);
		for (long i = 0; i < m; i++) std::copy_n(&last[i * d], d, &dx[learnt[i] * d]);
		for (long l = shape.layers - 1; l >= 0; l--) {
			feed_forward_backward(p.layers[l], space.kept[l], g.layers[l], dx);
			attention_backward(p.layers[l], space.kept[l], g.layers[l], dx);
		}
		for (long i = 0; i < n; i++) {
			T *row = g.embedding + tokens[i] * d;
			for (long j = 0; j < d; j++) row[j] += dx[i * d + j];
		}
		return loss;
	}

	// Turns a row of logits into its gradient; returns the loss.
	double cross_entropy(T *row, int32_t target, T scale) const {
		const long v = shape.vocabulary;
		const T most = *std::max_element(row, row + v), right = row[target];
		Vec<T> total{};
		for (long j = 0; j < v; j += LANES<T>) {
			const Vec<T> e = exp(load(row + j) - most);
			store(row + j, e);
			total += e;
		}
		const T all = sum<T>(total);
		for (long j = 0; j < v; j += LANES<T>) store(row + j, load(row + j) * (scale / all));
		row[target] -= scale;
		return std::log(double(all)) + most - right;
	}

	// The most likely token after each row.
	void most_likely(int32_t *best) {
		const long n = rows(), d = shape.width, v = shape.vocabulary;
		Array<T> &h = space.h, &logits = space.a;
		h.resize(n * d);
		space.output_norm.forward(n, d, space.x.data(), p.output_norm, h.data());
		logits.resize(n * v);
		linear(n, d, v, h.data(), p.embedding, logits.data());
		for (long i = 0; i < n; i++) best[i] = std::max_element(&logits[i * v], &logits[i * v] + v) - &logits[i * v];
	}
};

// Cuts a batch into shards of about the same number of rows.
template <class T> std::vector<Shard<T>> cut(const Shape &shape, const Parameters<const T> &p, const Rotation<T> &rotation, const int32_t *tokens, const int64_t *lengths, int64_t count) {
	int64_t all = 0;
	for (int64_t i = 0; i < count; i++) all += lengths[i];
	std::vector<Shard<T>> shards;
	int64_t done = 0;
	for (int64_t i = 0; i < count; i++) {
		if (shards.empty() || done >= all * int64_t(shards.size()) / SHARDS) shards.push_back({shape, p, rotation, workspaces<T>[shards.size()], tokens + done});
		shards.back().starts.push_back(shards.back().rows() + lengths[i]);
		done += lengths[i];
	}
	return shards;
}

int64_t longest(const int64_t *lengths, int64_t count) { return *std::max_element(lengths, lengths + count); }

// The mean loss, and its gradient in gradient. Row i of the tokens is followed by
// targets[i], which is negative where it is not learnt.
template <class T> double loss_and_gradient(const Shape &shape, const T *parameters, T *gradient, const int32_t *tokens, const int32_t *targets, const int64_t *lengths, int64_t count) {
	const Parameters<const T> p(shape, parameters);
	const Rotation<T> rotation(shape, longest(lengths, count));
	auto shards = cut<T>(shape, p, rotation, tokens, lengths, count);
	const int64_t size = p.size, rows = shards.back().tokens + shards.back().rows() - tokens;
	const int64_t learnt = std::count_if(targets, targets + rows, [](int32_t t) { return t >= 0; });
	std::vector<double> losses(shards.size());
	in_parallel(shards.size(), [&](int i) {
		Array<T> &own = shards[i].space.gradient;
		own.assign(size, 0);
		Parameters<T> g(shape, own.data());
		shards[i].forward();
		losses[i] = shards[i].backward(targets + (shards[i].tokens - tokens), T(1) / learnt, g);
	});
	std::fill_n(gradient, size, T(0));
	for (auto &s : shards)
		for (int64_t j = 0; j < size; j++) gradient[j] += s.space.gradient[j];
	double loss = 0;
	for (double l : losses) loss += l;
	return loss / learnt;
}

// Muon's step for one matrix (https://kellerjordan.github.io/posts/muon, arXiv:2502.16982).
// mean is the momentum of the gradient. The step is the matrix with its singular vectors
// whose singular values are about 1: five rounds of a quintic Newton-Schulz iteration,
// with Muon's coefficients, bring every value that is not tiny to between 0.7 and 1.2.
void muon(long rows, long columns, float *w, float *mean, const float *gradient, float momentum, float rate, float decay) {
	const long size = rows * columns, small = std::min(rows, columns), large = std::max(rows, columns);
	Array<float> x(size), y(size), square(small * small), square2(small * small);
	double length = 0;
	for (long i = 0; i < size; i++) {
		mean[i] += (1 - momentum) * (gradient[i] - mean[i]);
		y[i] = momentum * mean[i] + (1 - momentum) * gradient[i];
		length += double(y[i]) * y[i];
	}
	const float one = 1 / (std::sqrt(length) + 1e-7);
	// x has no more rows than columns.
	const Matrix<float> given = rows > columns ? Matrix<float>{y.data(), columns}.transposed() : Matrix<float>{y.data(), columns};
	for (long i = 0; i < small; i++)
		for (long j = 0; j < large; j++) x[i * large + j] = given.data[i * given.row + j * given.column] * one;
	for (int round = 0; round < 5; round++) {
		Matrix<const float> m{x.data(), large}, s{square.data(), small};
		multiply<false, float>(small, small, large, m, m.transposed(), {square.data(), small});
		multiply<false, float>(small, small, small, s, s, {square2.data(), small});
		for (long i = 0; i < small * small; i++) square[i] = -4.7750f * square[i] + 2.0315f * square2[i];
		multiply<false, float>(small, large, small, s, m, {y.data(), large});
		for (long i = 0; i < size; i++) x[i] = 3.4445f * x[i] + y[i];
	}
	const float step = rate * std::sqrt(std::max(1.0f, float(rows) / columns));
	const Matrix<float> turned = rows > columns ? Matrix<float>{x.data(), large}.transposed() : Matrix<float>{x.data(), large};
	for (long i = 0; i < rows; i++)
		for (long j = 0; j < columns; j++) {
			float &to = w[i * columns + j];
			to = to * (1 - rate * decay) - step * turned.data[i * turned.row + j * turned.column];
		}
}

} // namespace

extern "C" {

int64_t parameter_count(const Shape *shape) { return Parameters<float>(*shape, nullptr).size; }

double loss_and_gradient_float(const Shape *s, const float *p, float *g, const int32_t *tokens, const int32_t *targets, const int64_t *lengths, int64_t count) {
	return loss_and_gradient(*s, p, g, tokens, targets, lengths, count);
}

double loss_and_gradient_double(const Shape *s, const double *p, double *g, const int32_t *tokens, const int32_t *targets, const int64_t *lengths, int64_t count) {
	return loss_and_gradient(*s, p, g, tokens, targets, lengths, count);
}

// The most likely token after each of tokens.
void most_likely(const Shape *shape, const float *parameters, const int32_t *tokens, const int64_t *lengths, int64_t count, int32_t *best) {
	const Parameters<const float> p(*shape, parameters);
	const Rotation<float> rotation(*shape, longest(lengths, count));
	auto shards = cut<float>(*shape, p, rotation, tokens, lengths, count);
	in_parallel(shards.size(), [&](int i) {
		shards[i].forward();
		shards[i].most_likely(best + (shards[i].tokens - tokens));
	});
}

// Steps count matrices: matrix i has rows[i] and columns[i] and lies at[i] numbers
// behind the beginning of each array.
void muon_step(int64_t count, const int64_t *rows, const int64_t *columns, const int64_t *at, float *weights, float *means, const float *gradient, float momentum, float rate, float decay) {
	in_parallel(count, [&](int i) { muon(rows[i], columns[i], weights + at[i], means + at[i], gradient + at[i], momentum, rate, decay); });
}

void exp_float(const float *x, float *y, int64_t count) {
	for (int64_t i = 0; i < count; i += LANES<float>) store(y + i, exp(load(x + i)));
}
}
