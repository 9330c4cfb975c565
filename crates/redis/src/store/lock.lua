-- Takes the lock KEYS[1] with the token ARGV[1] for ARGV[2] ms. Returns -1 if it has this token, or
-- the time in ms for which another process has it.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) or redis.call('GET', KEYS[1]) == ARGV[1] then
  return -1
end
return math.max(0, redis.call('PTTL', KEYS[1]))
