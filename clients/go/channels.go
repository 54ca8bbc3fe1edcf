package mlxstdio

// isClosed tells whether a channel that only ever is closed has been.
func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}

// poke wakes who waits on a channel with room for one; one that is about to look needs no second.
func poke(channel chan<- struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}
