package resolver

// Resolves tells whether the server answers and can find answers outside, and if not, why.
// One resolver to ask that works is enough. Safe for concurrent use.
func (s *Server) Resolves() (ok bool, why string) {
	if !s.serving.Load() {
		return false, "the resolver does not run"
	}
	checks := s.upstream.checks()
	for _, c := range checks {
		if c.OK {
			return true, ""
		}
	}
	return len(checks) == 0, "every resolver that it asks is down"
}
