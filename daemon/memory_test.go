package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMemoryIsWhatTheMachineAndItsControlGroupsLeave(t *testing.T) {
	const meminfo = "MemTotal:       8000 kB\nMemFree:         100 kB\nMemAvailable:    5000 kB\n"
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  memory
	}{
		{"no proc", nil, memory{1 << 62, 1 << 62}},
		{"the machine alone", map[string]string{"proc/meminfo": meminfo}, memory{8000 << 10, 5000 << 10}},
		{"a group without limit", map[string]string{
			"proc/meminfo":                        meminfo,
			"proc/self/cgroup":                    "0::/a\n",
			"sys/fs/cgroup/a/memory.max":          "max\n",
			"sys/fs/cgroup/a/memory.current":      "1000\n",
			"sys/fs/cgroup/a/memory.stat":         "anon 1\n",
			"sys/fs/cgroup/unrelated/memory.max":  "1\n",
			"sys/fs/cgroup/unrelated/memory.stat": "1\n",
		}, memory{8000 << 10, 5000 << 10}},
		{"the lowest limit around it counts", map[string]string{
			"proc/meminfo":                     meminfo,
			"proc/self/cgroup":                 "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max":     "4000000\n",
			"sys/fs/cgroup/a/b/memory.current": "100000\n",
			"sys/fs/cgroup/a/memory.max":       "3000000\n",
			"sys/fs/cgroup/a/memory.current":   "1000000\n",
			"sys/fs/cgroup/a/memory.stat":      "anon 5\ninactive_file 200000\n",
		}, memory{3000000, 2200000}},
		{"version 1", map[string]string{
			"proc/meminfo":     meminfo,
			"proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/a\n0::/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   "9223372036854771712\n",
			"sys/fs/cgroup/memory/memory.usage_in_bytes":   "7000000\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "2000000\n",
			"sys/fs/cgroup/memory/a/memory.usage_in_bytes": "3000000\n",
			"sys/fs/cgroup/memory/a/memory.stat":           "inactive_file 7\ntotal_inactive_file 1500000\n",
		}, memory{2000000, 500000}},
		{"version 1 in a container, which sees its group as the root", map[string]string{
			"proc/meminfo":     meminfo,
			"proc/self/cgroup": "4:memory:/docker/123\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n",
			"sys/fs/cgroup/memory/memory.usage_in_bytes": "3000000\n",
		}, memory{2000000, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for path, text := range tt.files {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := readMemoryAt(root); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestThisMachineHasMemory(t *testing.T) {
	m := readMemory()
	if m.available < 1<<20 || m.available > m.total {
		t.Errorf("%+v", m)
	}
}
