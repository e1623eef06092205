-- Queue an ended job again: put its payload back where its result is.
--
-- ARGV: id, queue, score (ms), time to live (ms), payload
-- Returns 1; 0 where the job is waiting or running.
local id, queue = ARGV[1], ARGV[2]
if redis.call('EXISTS', 'arq:job:' .. id) == 1 then
  return 0
end
redis.call('DEL', 'arq:result:' .. id, 'worker-runtime:dead:' .. id, 'arq:retry:' .. id,
  'worker-runtime:begun:' .. id)
redis.call('ZREM', 'worker-runtime:dead', id)
redis.call('ZREM', 'arq:abort', id)
redis.call('PSETEX', 'arq:job:' .. id, ARGV[4], ARGV[5])
redis.call('ZADD', queue, ARGV[3], id)
redis.call('DEL', 'worker-runtime:idle:' .. queue)
redis.call('PUBLISH', 'worker-runtime:wake:' .. queue, '')
return 1
