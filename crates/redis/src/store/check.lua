-- Tries the commands of the store on a key of its own. Returns the first that fails, and its error.
for _, command in ipairs({
  { 'SET', KEYS[1], '1', 'NX', 'PX', '1000' },
  { 'GET', KEYS[1] },
  { 'PTTL', KEYS[1] },
  { 'DEL', KEYS[1] },
}) do
  local reply = redis.pcall(unpack(command))
  if type(reply) == 'table' and reply['err'] then
    return { command[1], reply['err'] }
  end
end
return {}
