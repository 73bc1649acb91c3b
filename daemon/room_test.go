package daemon

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestModelsMakeRoomForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{}
		r := startResidency(t, f, func(o *Options) { o.MaxLoaded = 2 })
		a, b, c := testModel(t, "a", 1), testModel(t, "b", 1), testModel(t, "c", 1)
		use(t, r, a, auto, nil)
		time.Sleep(time.Second)
		use(t, r, b, auto, nil)
		wantResident(t, r, "a b")
		use(t, r, c, auto, nil)
		wantResident(t, r, "b c")

		lb, lc := mustAcquire(t, r, b, auto, nil), mustAcquire(t, r, c, auto, nil)
		la := acquireLater(t, r, a, auto)
		synctest.Wait()
		if len(la) != 0 {
			t.Fatal("a busy model had to go")
		}
		lc.release()
		lb.release() // whichever was chosen, it is free now
		(<-la).release()
		if n := len(strings.Fields(residentNames(r))); n != 2 {
			t.Errorf("%d models are resident", n)
		}
	})
}

func TestMemoryDecidesWhatStays(t *testing.T) {
	const gib = 1 << 30
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{size: 3 * gib}
		r := startResidency(t, f, func(o *Options) {
			o.memory = func() memory { return memory{total: 8 * gib, available: 8 * gib} }
		})
		a, b, c := testModel(t, "a", 3*gib), testModel(t, "b", 3*gib), testModel(t, "c", 3*gib)
		use(t, r, a, auto, nil)
		time.Sleep(time.Second)
		use(t, r, b, auto, nil)
		wantResident(t, r, "a b")
		use(t, r, c, auto, nil)
		wantResident(t, r, "b c")

		_, err := r.acquire(t.Context(), testModel(t, "huge", 9*gib), auto, nil)
		if want := "model requires more system memory (9.2 GiB) than is available (8.0 GiB)"; err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		wantResident(t, r, "b c") // nothing went for what can't come
	})
}

func TestModelsThatDifferInTheirAdapterNeedTheWeightsOnce(t *testing.T) {
	const gib = 1 << 30
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{size: 5 * gib, shared: 4 * gib}
		r := startResidency(t, f, func(o *Options) {
			o.memory = func() memory { return memory{total: 8 * gib, available: 8 * gib} }
		})
		plain := testModel(t, "plain", 4*gib)
		adapted, other := *plain, testModel(t, "other", 4*gib)
		adapted.Name.Model, adapted.AdapterPaths = "adapted", []string{testModel(t, "adapter", gib).ModelPath}
		use(t, r, plain, auto, nil)
		time.Sleep(time.Second)
		use(t, r, &adapted, auto, nil)
		wantResident(t, r, "plain adapted")
		specs := f.loads()
		if len(specs) != 2 || specs[0].Weights == "" || specs[0].Weights != specs[1].Weights {
			t.Errorf("loads %+v", specs)
		}
		// Other weights, and the same ones elsewhere, are not the same.
		use(t, r, other, auto, nil)
		wantResident(t, r, "other")
		use(t, r, plain, runnerOptions{NumGPU: 0}, nil)
		wantResident(t, r, "plain")
		specs = f.loads()
		if specs[2].Weights == specs[0].Weights || specs[3].Weights == specs[0].Weights {
			t.Errorf("loads %+v", specs)
		}
	})
}

func TestModelsThatDifferInTheirTextsShareAllButThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{}
		r := startResidency(t, f)
		plain := testModel(t, "plain", 1)
		poet := plain.With("You are a poet.", map[string]any{"temperature": 1.5})
		a, b := mustAcquire(t, r, plain, auto, nil), mustAcquire(t, r, poet, auto, nil)
		defer a.release()
		defer b.release()
		if n := len(f.loads()); n != 1 || a.sched != b.sched || a.model.System == b.model.System {
			t.Errorf("%d loads", n)
		}
	})
}

func TestKVBudgetIsAShareOfWhatIsFree(t *testing.T) {
	const gib = 1 << 30
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{size: 2 * gib}
		r := startResidency(t, f, func(o *Options) {
			o.memory = func() memory { return memory{total: 12 * gib, available: 11 * gib} }
		})
		use(t, r, testModel(t, "a", 2*gib), auto, nil)
		use(t, r, testModel(t, "b", 2*gib), auto, nil)
		info := r.list()
		if got, want := info[0].budget, int64(9*gib)*80/100; got != want {
			t.Errorf("the first model may hold %d bytes, want %d", got, want)
		}
		// The other has nearly all of what is left promised, but a quarter.
		if got, want := info[1].budget, int64(8*gib)/4*80/100; got != want {
			t.Errorf("the second model may hold %d bytes, want %d", got, want)
		}
	})
}
