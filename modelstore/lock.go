package modelstore

// lockState is what came of locking a file.
type lockState int

const (
	lockUnknown   lockState = iota // the file system has no locks
	lockedByUs                     // until the file is closed
	lockedByOther                  // someone is writing it
)
