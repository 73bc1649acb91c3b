# To be sourced: sets python to one that has NumPy, and the environment in which
# training gives the same file again.

# Debian's own, not one that stands before it in PATH: NumPy is Debian's too.
python=/usr/bin/python3
[[ -x $python ]] || python=python3
has_numpy() { "$python" -c 'import numpy' 2>/dev/null; }
has_openblas() { ! command -v apt-get >/dev/null || compgen -G '/usr/lib/*/openblas-pthread' >/dev/null; }
if ! has_numpy || ! has_openblas; then
	../setup.sh --numpy
fi

# The same kernels on every CPU with AVX2, so that the last bits are the same too.
export OPENBLAS_NUM_THREADS=1 OPENBLAS_CORETYPE=Haswell
if grep -q avx512f /proc/cpuinfo 2>/dev/null; then
	NPY_DISABLE_CPU_FEATURES=$("$python" -c 'from numpy.core._multiarray_umath import __cpu_dispatch__ as d, __cpu_features__ as f; print(*(n for n in d if n.startswith("AVX512") and f[n]))')
	export NPY_DISABLE_CPU_FEATURES
fi
export PYTHONDONTWRITEBYTECODE=1
