-- Returns the value of KEYS[1]. If there is none, takes the lock KEYS[2] with the token ARGV[1] for
-- ARGV[2] ms and returns 1, or returns 0 and the time in ms for which another process has the lock.
local value = redis.call('GET', KEYS[1])
if value then
  return { value }
end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) or redis.call('GET', KEYS[2]) == ARGV[1] then
  return { 1 }
end
return { 0, redis.call('PTTL', KEYS[2]) }
