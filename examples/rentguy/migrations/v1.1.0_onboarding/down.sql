DROP TABLE public.onb_tips;
DROP TABLE public.onb_progress;
DROP TABLE public.onb_steps;
