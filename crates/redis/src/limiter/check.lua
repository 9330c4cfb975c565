-- Tries the commands of the limiter on a key of its own. Returns the first that fails, and its error.
for _, command in ipairs({
  { 'TIME' },
  { 'HSET', KEYS[1], 'a', '1' },
  { 'PEXPIRE', KEYS[1], '1' },
  { 'HMGET', KEYS[1], 'a' },
  { 'HGET', KEYS[1], 'a' },
  { 'HINCRBYFLOAT', KEYS[1], 'a', '1' },
  { 'HDEL', KEYS[1], 'a' },
  { 'ZADD', KEYS[1], '1', 'a' },
  { 'PEXPIRE', KEYS[1], '1' },
  { 'ZSCORE', KEYS[1], 'a' },
  { 'ZCARD', KEYS[1] },
  { 'ZRANGEBYSCORE', KEYS[1], '-inf', '0' },
  { 'ZREMRANGEBYSCORE', KEYS[1], '-inf', '0' },
  { 'ZREM', KEYS[1], 'a' },
}) do
  local reply = redis.pcall(unpack(command))
  if type(reply) == 'table' and reply['err'] then
    return { command[1], reply['err'] }
  end
end
return {}
