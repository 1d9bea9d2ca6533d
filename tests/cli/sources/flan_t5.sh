# An encoder and a decoder, 4-bit, every linear layer adapted.
python vigogne/cli/train_sft.py --model_name_or_path google/flan-t5-xl --model_type seq2seq \
    --train_file data/instruct.jsonl --output_dir out \
    --processor_style alpaca_seq2seq --model_max_length 1024 --add_bos_token false \
    --adapter qlora --load_in_4bit --torch_dtype bfloat16 \
    --lora_r 16 --lora_alpha 32 --lora_target_all_linear_layers \
    --learning_rate 3e-4 --num_train_epochs 3 --report_to tensorboard
