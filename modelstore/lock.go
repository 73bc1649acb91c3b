package modelstore

import (
	"fmt"
	"os"
	"time"
)

// lockState is what came of locking a file.
type lockState int

const (
	lockUnknown   lockState = iota // the file system has no locks
	lockedByUs                     // until the file is closed
	lockedByOther                  // someone is writing it
)

// How long a change waits for another program's: each takes milliseconds, a Prune of
// many files perhaps seconds.
const (
	lockPause = 2 * time.Millisecond
	lockLimit = 30 * time.Second
)

// change orders the changes of names and the removal of blobs, among the goroutines of
// this process and among programs of our kind: it takes s.mu and locks the folder of
// blobs. Between them a blob that one program takes for unused could become part of
// another's model. Where folders can't be locked there is one program, we hope.
func (s *Store) change() (done func(), err error) {
	s.mu.Lock()
	dir, err := os.Open(s.blobs.path)
	if err != nil {
		return s.mu.Unlock, nil // what is wrong shows when the folder is used
	}
	done = func() {
		dir.Close()
		s.mu.Unlock()
	}
	if err := s.blobs.step("lock"); err != nil {
		done()
		return nil, s.writeError("locking the model folder", err)
	}
	for end := time.Now().Add(lockLimit); lock(dir) == lockedByOther; time.Sleep(lockPause) {
		if time.Now().After(end) {
			done()
			return nil, fmt.Errorf("another program has been changing the model folder %s for %.0f s: wait until it is done, or end it, then try again", s.dir, lockLimit.Seconds())
		}
	}
	return done, nil
}
