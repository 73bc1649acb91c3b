//go:build cgo

package llama

// #include "shim.h"
import "C"

// Devices lists what models can be computed on, the CPU included.
func Devices() []Device {
	start()
	var list []Device
	for i := range C.ggml_backend_dev_count() {
		d := C.ggml_backend_dev_get(i)
		var free, total C.size_t
		C.ggml_backend_dev_memory(d, &free, &total)
		list = append(list, Device{
			Name:        C.GoString(C.ggml_backend_dev_name(d)),
			Description: C.GoString(C.ggml_backend_dev_description(d)),
			Kind:        deviceKind(C.ggml_backend_dev_type(d)),
			Total:       uint64(total),
			Free:        uint64(free),
		})
	}
	drainLog()
	return list
}

func deviceKind(t uint32) string {
	switch t {
	case C.GGML_BACKEND_DEVICE_TYPE_CPU:
		return "cpu"
	case C.GGML_BACKEND_DEVICE_TYPE_GPU:
		return "gpu"
	case C.GGML_BACKEND_DEVICE_TYPE_IGPU:
		return "igpu"
	case C.GGML_BACKEND_DEVICE_TYPE_ACCEL:
		return "accel"
	default:
		return "meta"
	}
}
