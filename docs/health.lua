-- How Argo CD shows the kinds of shipbell.dev.
-- Whether messages arrive (the condition Delivered) is left out on purpose: no application becomes Degraded because Slack is down.
-- Nor because of what runs: an Environment that is Non-Compliant says so in its message, and is Healthy.
local status = obj.status or {}
if status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "Shipbell has not seen this generation yet"}
end

local found = {}
for _, condition in ipairs(status.conditions or {}) do
  found[condition.type] = condition
end
local function is(name, value)
  return found[name] ~= nil and found[name].status == value
end
local function say(name)
  local condition = found[name]
  return (condition.reason or "") .. ": " .. (condition.message or "")
end

if is("Stalled", "True") then
  return {status = "Degraded", message = say("Stalled")}
end
if is("Reconciling", "True") then
  -- The message of Ready says what it waits for.
  return {status = "Progressing", message = say(found.Ready and "Ready" or "Reconciling")}
end
if is("Ready", "True") then
  local message = say("Ready")
  if status.compliance and status.compliance ~= "Unknown" then
    message = status.compliance .. "; " .. message
  end
  return {status = "Healthy", message = message}
end
if is("Ready", "False") then
  return {status = "Degraded", message = say("Ready")}
end
return {status = "Progressing", message = "Shipbell has not reported yet whether it is ready"}
