package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ollama/ollama/format"

	"cllm/modelstore"
)

const (
	// loadReserve is what a model needs beside its weights: buffers for a step,
	// and KV cache for a first request.
	loadReserve = 256 << 20
	// kvShare of the memory that is free after a load, in percent, may become KV
	// cache. The rest is for what isn't counted here.
	kvShare = 80
)

// memory is what the machine, or the control group that the daemon runs in, has.
type memory struct {
	total     int64 // bytes
	available int64 // bytes that can be had without swapping
}

// room returns the bytes that a new model may take, and what the resident ones hold.
//
// The weights of resident models are often mapped files, which the kernel counts
// as available. So the total less what the residents are known to hold bounds it too.
func (r *residency) room() (free int64, occupants []occupant) {
	mem := r.opts.memory()
	for _, m := range r.residents {
		occupants = append(occupants, occupant{
			going: m.retiring, busy: m.leases > 0, keepAlive: m.keepAlive, idleSince: m.idleSince,
			size: m.loaded.Size - m.loaded.Weights + m.heldBytes(), weights: m.weights, weightBytes: m.loaded.Weights,
		})
	}
	return max(min(mem.total-all(occupants), mem.available), 0), occupants
}

// newBytes is what a model that has just been loaded takes beside the weights that it
// shares with residents.
func (r *residency) newBytes(m *resident) int64 {
	for _, other := range r.residents {
		if other.weights == m.weights {
			return m.loaded.Size - m.loaded.Weights
		}
	}
	return m.loaded.Size
}

// heldBytes is what the model's requests hold beside the weights.
func (m *resident) heldBytes() (sum int64) {
	if m.sched != nil {
		sum = m.sched.Stats().HeldTokens * m.limits.CellBytes
	}
	if m.embed != nil {
		sum += m.embed.Stats().Bytes
	}
	return sum
}

// kvBudget is the KV cache, in bytes, that a model gets of what is free after it
// was loaded. What the other models may still take up of theirs is left to them,
// but for a quarter: most of them never will. It is never less than what a load has
// made sure of.
func (r *residency) kvBudget(free int64) int64 {
	free = max(free, 0)
	promised := int64(0)
	for _, m := range r.residents {
		promised += max(m.budget-m.heldBytes(), 0)
	}
	return max(max(free-promised, free/4)*kvShare/100, loadReserve)
}

// weightBytes is the size of the files that a model is loaded from.
func weightBytes(m *modelstore.Model) (int64, error) {
	var sum int64
	for _, path := range append([]string{m.ModelPath}, m.AdapterPaths...) {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return 0, errorf(http.StatusInternalServerError, "model '%s' is incomplete, its file %s is missing: pull or create the model again", m.Name.DisplayShortest(), filepath.Base(path))
		case err != nil:
			return 0, fmt.Errorf("the weights can't be read: %w", err)
		}
		sum += info.Size()
	}
	return sum, nil
}

// noMemory is Ollama's text for a model that does not fit.
func noMemory(size, free int64) error {
	return errorf(http.StatusInternalServerError, "model requires more system memory (%s) than is available (%s)", format.HumanBytes2(uint64(size)), format.HumanBytes2(uint64(max(free, 0))))
}

// readMemory asks the kernel. The limit of a control group counts where it is
// lower than the machine. A machine that does not tell is taken to have enough.
func readMemory() memory { return readMemoryAt("/") }

// readMemoryAt is readMemory with proc and sys under another root.
func readMemoryAt(root string) memory {
	info := readFields(filepath.Join(root, "proc/meminfo"))
	m := memory{total: info["MemTotal:"] << 10, available: info["MemAvailable:"] << 10}
	if m.total == 0 {
		return memory{total: 1 << 62, available: 1 << 62}
	}
	for _, g := range controlGroups(root) {
		limit, ok := readNumber(filepath.Join(g.dir, g.limit))
		used, known := readNumber(filepath.Join(g.dir, g.used))
		if !ok || !known {
			continue
		}
		// The page cache counts as used there, although it goes when memory is short.
		used -= readFields(filepath.Join(g.dir, "memory.stat"))[g.cache]
		m.total = min(m.total, limit)
		m.available = min(m.available, max(limit-used, 0))
	}
	return m
}

// controlGroup says where a control group tells about its memory.
type controlGroup struct {
	dir, limit, used string // folder, and files in it
	cache            string // field of memory.stat
}

// controlGroups returns the group of this process and those around it, of both
// versions of control groups.
func controlGroups(root string) (groups []controlGroup) {
	data, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3) // id:controllers:path
		if len(fields) != 3 {
			continue
		}
		top := filepath.Join(root, "sys/fs/cgroup")
		g := controlGroup{limit: "memory.max", used: "memory.current", cache: "inactive_file"}
		switch {
		case fields[0] == "0" && fields[1] == "":
		case slices.Contains(strings.Split(fields[1], ","), "memory"):
			top = filepath.Join(top, "memory")
			g = controlGroup{limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", cache: "total_inactive_file"}
		default:
			continue
		}
		for path := filepath.Join("/", fields[2]); ; path = filepath.Dir(path) {
			g.dir = filepath.Join(top, path)
			groups = append(groups, g)
			if path == "/" {
				break
			}
		}
	}
	return groups
}

// readNumber reads a file that holds one number. "max" is none.
func readNumber(path string) (int64, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return n, err == nil
}

// readFields reads a file of lines that begin with a name and a number.
func readFields(path string) map[string]int64 {
	fields := make(map[string]int64)
	data, err := os.ReadFile(path)
	if err != nil {
		return fields
	}
	for line := range strings.Lines(string(data)) {
		if words := strings.Fields(line); len(words) >= 2 {
			if n, err := strconv.ParseInt(words[1], 10, 64); err == nil {
				fields[words[0]] = n
			}
		}
	}
	return fields
}
