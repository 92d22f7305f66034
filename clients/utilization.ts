// The types of spindle.d.ts in use; checked by `npx tsc --project clients`.
import type { components, operations } from "./spindle";

type Utilization = components["schemas"]["machine_util"];
type Filters = NonNullable<operations["machine_util"]["parameters"]["query"]>;

export async function utilization(api: string, filters: Filters): Promise<Utilization[]> {
  const query = new URLSearchParams(Object.entries(filters).map(([name, value]) => [name, String(value)]));
  const answer = await fetch(`${api}/machine_util?${query}`);
  if (!answer.ok) {
    const error: components["schemas"]["error"] = await answer.json();
    throw new Error(error.message);
  }
  return answer.json();
}

export const week = await utilization("http://127.0.0.1:8000/api/v1", {
  machine: "eq.branosera",
  order: "dt.desc",
  limit: 7,
});
export const hours: number = week.reduce((sum, day) => sum + day.state_running, 0);
