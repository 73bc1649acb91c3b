//go:build linux || darwin

package modelstore

import "syscall"

// freeSpace is what this user may still write on the disk of a folder.
func freeSpace(dir string) (bytes int64, known bool) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil || s.Bavail > 1<<40 {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true
}
