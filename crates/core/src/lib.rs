//! The vocabulary that every tower-claude layer shares: Class, Cost, Outcome, bodies, refusals, scopes, events.
