-- Tries the commands of the store on a key of its own. Returns the first that fails, and its error.
local failed = {}
local function try(name, ...)
  local reply = redis.pcall(name, ...)
  if #failed == 0 and type(reply) == 'table' and reply['err'] then
    failed = { name, reply['err'] }
  end
end
try('SET', KEYS[1], '1', 'NX', 'PX', '1000')
try('GET', KEYS[1])
try('PTTL', KEYS[1])
try('DEL', KEYS[1])
return failed
