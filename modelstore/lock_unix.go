//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package modelstore

import (
	"errors"
	"os"
	"syscall"
)

// lock locks an open file until it is closed, without waiting.
func lock(f *os.File) lockState {
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case err == nil:
		return lockedByUs
	case errors.Is(err, syscall.EWOULDBLOCK):
		return lockedByOther
	default:
		return lockUnknown
	}
}
